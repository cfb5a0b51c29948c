"""A tokenizer's files: what they say of lengths, folders that hold none, damaged files, saving."""

import json
import random
import shutil

import numpy as np
import pytest
import vocabularies
from vocabularies import END, START, write_bert, write_clip

from marble.data.tokenizer import Tokenizer
from marble.errors import InputError


@pytest.mark.parametrize(
    "told, max_length, expected",
    [
        *[(77, None, 77), (None, None, 77), (1e30, None, 77), (10**30, None, 77), (float("inf"), None, 77)],
        *[(64.0, None, 64), (77, 9, 9), (1e30, 200, 200)],
    ],
)
def test_max_length(tmp_path, told, max_length, expected):
    tokenizer = Tokenizer.open(write_clip(tmp_path, config={"model_max_length": told}), max_length=max_length)
    assert tokenizer.max_length == expected
    assert tokenizer.encode(["a cat"])[0].shape == (1, expected)


FOLDERS = {
    "nothing": ({}, "has no tokenizer that can be read, but []: it needs tokenizer.json, CLIP's vocab.json and merges"),
    "other files": ({"config.json": "{}"}, "but ['config.json']: it needs"),
    "sentencepiece": ({"spiece.model": "x"}, "but ['spiece.model']: SentencePiece (T5's) is not supported; it needs"),
    "no merges": ({"vocab.json": "{}"}, "but ['vocab.json']: it needs"),
    "T5": (
        {"tokenizer_config.json": '{"tokenizer_class": "T5Tokenizer"}', "spiece.model": "x"},
        "tokenizer_class 'T5Tokenizer' is not supported with these files: it can be CLIPTokenizer, BertTokenizer",
    ),
    "unigram": ({"tokenizer.json": '{"model": {"type": "Unigram", "vocab": []}}'}, "is not supported: 'Unigram'; it"),
    "GPT": ({"tokenizer.json": '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'}, "BPE without </w>; it must"),
    "no JSON": ({"tokenizer.json": '{"model": '}, "tokenizer.json is not JSON"),
    "a list": ({"tokenizer.json": "[]"}, "tokenizer.json is a JSON list: it must be an object"),
    "deep": ({"tokenizer.json": "[" * 100_000}, "brackets too deep"),
    "no model": ({"tokenizer.json": "{}"}, "has no model"),
    "no vocabulary": ({"tokenizer.json": '{"model": {"type": "WordPiece"}}'}, "holds no vocabulary"),
    "not the library's": (
        {"tokenizer.json": '{"model": {"type": "WordPiece", "vocab": {"[CLS]": 0}, "unk_token": "[UNK]"}}'},
        "tokenizer.json is damaged: ",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_hold_no_tokenizer(refusal, tmp_path, name):
    files, message = FOLDERS[name]
    assert message in refusal(vocabularies.write(tmp_path, None, None, **files))


def test_a_file_and_nothing_are_no_folder(refusal, tmp_path, clip_folder):
    for path in (tmp_path / "nothing", clip_folder / "vocab.json"):
        assert "is no folder: give the folder of a tokenizer" in refusal(path)


DAMAGED = {
    "config": ("tokenizer_config.json", lambda text: text[:-5], "tokenizer_config.json is not JSON"),
    "special": ("special_tokens_map.json", lambda text: "3", "special_tokens_map.json is a JSON int"),
    "vocab": ("vocab.json", lambda text: text[: len(text) // 2], "vocab.json is not JSON"),
    "vocab of names": ("vocab.json", lambda text: '{"a": "b"}', "vocab.json: the token 'a' has the id 'b'"),
    "negative": ("vocab.json", lambda text: '{"a": -1}', "the token 'a' has the id -1: it must be in 0..2147483647"),
    "huge": ("vocab.json", lambda text: '{"a": 4294967296}', "the token 'a' has the id 4294967296"),
    "twice": ("vocab.json", lambda text: '{"a": 1, "b": 1}', "vocab.json gives one id to several tokens"),
    "merges": ("merges.txt", lambda text: text + "a zz\n", "merges.txt merges 'a and zz', and 'zz' is not in"),
    "a merge": (
        "merges.txt",
        lambda text: text.replace("#version: 0.2", "a b c", 1),
        "merges.txt has the merge ('a', 'b', 'c'): it must",
    ),
    "end": ("vocab.json", lambda text: text.replace(END, "end"), f"vocab.json lacks the eos_token {END!r}"),
    "start": ("vocab.json", lambda text: text.replace(START, "start"), f"vocab.json lacks the bos_token {START!r}"),
    "pad": ("special_tokens_map.json", lambda text: '{"pad_token": "<pad>"}', "lacks the pad_token '<pad>'"),
    "a pad of no text": ("special_tokens_map.json", lambda text: '{"pad_token": 3}', "pad_token has the token 3: it"),
    "an object": ("special_tokens_map.json", lambda text: '{"pad_token": {"a": 1}}', "or an object with its content"),
    "no text": ("merges.txt", lambda text: b"\xff\xfe", "merges.txt is not UTF-8 text"),
    "length": ("tokenizer_config.json", lambda text: '{"model_max_length": "x"}', "model_max_length='x' must be a"),
    "short": ("tokenizer_config.json", lambda text: '{"model_max_length": 1}', "model_max_length=1 must be a whole"),
    "class": (
        "tokenizer_config.json",
        lambda text: '{"tokenizer_class": "BertTokenizer"}',
        "'BertTokenizer' is not supported with these files: it can be CLIPTokenizer",
    ),
    "decoder": ("tokenizer_config.json", lambda text: '{"added_tokens_decoder": [1]}', "must be an object of ids"),
    "of decoder": (
        "tokenizer_config.json",
        lambda text: '{"added_tokens_decoder": {"7": 1}}',
        "must be an object with",
    ),
    "another id": (
        "tokenizer_config.json",
        lambda text: json.dumps({"added_tokens_decoder": {"7": {"content": END}}}),
        f"the added token {END!r} has the id 7 and must have",
    ),
    "extra": ("special_tokens_map.json", lambda text: '{"additional_special_tokens": "x"}', "'x' must be a list"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(refusal, tmp_path, clip_folder, name):
    file, damage, message = DAMAGED[name]
    folder = shutil.copytree(clip_folder, tmp_path / "folder")
    damaged = damage((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert message in refusal(folder)


def test_bert_s_settings_are_true_or_false(refusal, tmp_path):
    message = "do_lower_case='no' must be true or false"
    assert message in refusal(write_bert(tmp_path, config={"do_lower_case": "no"}))


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_what_is_saved_is_opened(request, tmp_path, kind):
    tokenizer = Tokenizer.open(request.getfixturevalue(f"{kind}_folder"), max_length=33)
    tokenizer.save(tmp_path / "a" / "b")
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    more = {"vocab.json", "merges.txt"} if kind == "clip" else set()
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == names | more
    texts = vocabularies.texts(count=60)
    for left in ({}, {"tokenizer.json"} if kind == "clip" else {}):
        for name in left:
            (tmp_path / "a" / "b" / name).unlink()
        again = Tokenizer.open(tmp_path / "a" / "b")
        for attribute in ("max_length", "vocab_size", "begin", "end", "pad"):
            assert getattr(again, attribute) == getattr(tokenizer, attribute)
        for ours, saved in zip(tokenizer.encode(texts), again.encode(texts), strict=True):
            np.testing.assert_array_equal(ours, saved)


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_mutated_files_end_in_one_line_or_open(request, tmp_path, kind):
    """Any damage is an InputError or harmless: what opens also encodes."""
    rng = random.Random(0)
    Tokenizer.open(request.getfixturevalue(f"{kind}_folder")).save(tmp_path / "whole")
    paths = sorted((tmp_path / "whole").iterdir())
    outcomes = {"opened": 0, "refused": 0}
    for number in range(150):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{number}")
        path = folder / rng.choice(paths).name
        if kind == "clip" and path.name in ("vocab.json", "merges.txt"):
            (folder / "tokenizer.json").unlink()
        path.write_text(mutated(path.read_text(encoding="utf-8"), rng), encoding="utf-8")
        try:
            Tokenizer.open(folder).encode(["a photo of a cat 😀", "don't 42"])
            outcomes["opened"] += 1
        except InputError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
            outcomes["refused"] += 1
        shutil.rmtree(folder)
    assert min(outcomes.values()) > 5, outcomes


def mutated(text, rng):
    """Lines or JSON's values changed, swapped, or cut."""
    spots = [i for i, c in enumerate(text) if c in ',:{}[]"\n'][: 10 ** rng.randint(1, 6)]
    at, to = rng.choice(spots), rng.choice(spots)
    new = rng.choice(['"', "null", "-1", "1e999", "99999999999", "{}", "[", "", "\ufffd", '"x",', text[at:to][:50]])
    return text[:at] + new + text[at + rng.choice([0, 1, 1, 5, len(text)]) :]
