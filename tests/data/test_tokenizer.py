"""The tokenizer: CLIP's BPE beside its definition in a few lines, cuts, what files say, damaged files, saving."""

import itertools
import json
import logging
import random
import shutil
import unicodedata

import numpy as np
import pytest
import tokenizers
import vocabularies
from vocabularies import END, SENTENCES, START, of_stable_diffusion, write_bert, write_clip

from marble.data.tokenizer import Tokenizer
from marble.errors import InputError

SUFFIXES = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def kind_of(character):
    """A letter, a digit, white space, or else."""
    return " " if character.isspace() else {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "")


def words_of(text):
    """Runs of letters, single digits, runs of all else but white space; and the endings of English."""
    start = 0
    while start < len(text):
        suffix = next((each for each in SUFFIXES if text.startswith(each, start)), None)
        end = start + (len(suffix) if suffix else 1)
        while not suffix and end < len(text) and kind_of(text[end]) == kind_of(text[start]) != "N":
            end += 1
        if kind_of(text[start]) != " ":
            yield text[start:end]
        start = end


def merged(word, ranks):
    """The symbols of a word: of its neighbours those of the lowest rank are joined, until none are left."""
    symbols = [vocabularies.symbols()[byte] for byte in word.encode()]
    symbols[-1] += "</w>"
    while len(symbols) > 1:
        best = min(itertools.pairwise(symbols), key=lambda pair: ranks.get(pair, np.inf))
        if best not in ranks:
            break
        at = 0
        while at < len(symbols) - 1:
            if (symbols[at], symbols[at + 1]) == best:
                symbols[at : at + 2] = ["".join(best)]
            at += 1
    return symbols


def expected_ids(text):
    vocab, merges = vocabularies.clip_bpe()
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    text = " ".join(unicodedata.normalize("NFC", text).split()).lower()
    return [vocab[START], *(vocab[s] for word in words_of(text) for s in merged(word, ranks)), vocab[END]]


def prompts():
    rng = random.Random(0)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    made = [" ".join(rng.choices([*words, "CAT'S", "e\u0301", "\n", "1st", "x" * 50], k=n)) for n in range(40)]
    return [*SENTENCES, *made, "", " \t\n", "it''s 'S", "3.14 10", "👩‍🚀!!", "a\u00a0b\u3000c"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "tokenizer", **of_stable_diffusion(1))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "tokenizer")


def test_clip_is_its_definition(clip):
    tokenizer = Tokenizer.open(clip, max_length=4000)
    ids, mask = tokenizer.encode(prompts())
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (len(prompts()), 4000)
    for row, there, text in zip(ids, mask, prompts(), strict=True):
        assert row[there].tolist() == expected_ids(text), text
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        assert (row[~there] == tokenizer.pad).all()


def test_bert_finds_the_longest_pieces(bert):
    tokenizer = Tokenizer.open(bert, max_length=12)
    vocab = {token: i for i, token in enumerate(vocabularies.bert_vocab())}
    ids, mask = tokenizer.encode(["A Photo, sittinged 日本 ∂ [MASK]", ""])
    pieces = ["[CLS]", "a", "photo", ",", "sitting", "##ed", "日", "本", "[UNK]", "[MASK]", "[SEP]", "[PAD]"]
    assert ids.tolist() == [[vocab[piece] for piece in pieces], [vocab[p] for p in ["[CLS]", "[SEP]", *["[PAD]"] * 10]]]
    assert mask.sum(axis=1).tolist() == [11, 2]


def test_sizes_and_ids(clip, bert):
    vocab, _ = vocabularies.clip_bpe()
    tokenizer = Tokenizer.open(clip)
    assert (tokenizer.max_length, tokenizer.vocab_size) == (77, len(vocab))
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (vocab[START], vocab[END], vocab[END])
    np.testing.assert_array_equal(tokenizer.null_ids(), [vocab[START], *[vocab[END]] * 76])
    assert tokenizer.null_ids().dtype == np.int32
    tokenizer = Tokenizer.open(bert)
    assert (tokenizer.max_length, tokenizer.begin, tokenizer.end, tokenizer.pad) == (512, 5, 6, 0)


def test_no_text_is_fine(clip):
    ids, mask = Tokenizer.open(clip).encode([])
    assert ids.shape == mask.shape == (0, 77)


def test_texts_of_any_sequence(clip):
    tokenizer = Tokenizer.open(clip)
    expected, _ = tokenizer.encode(["a cat", "a mat"])
    for texts in (("a cat", "a mat"), np.asarray(["a cat", "a mat"]), iter(["a cat", "a mat"])):
        np.testing.assert_array_equal(tokenizer.encode(texts)[0], expected)


def test_equal_to_itself_alone(clip):
    one, other = Tokenizer.open(clip), Tokenizer.open(clip)
    assert one == one and one != other and len({one, other, one}) == 2


@pytest.mark.parametrize("version, pad", [(1, END), (2, "!"), ("xl", "!")])
def test_the_pads_of_stable_diffusion(tmp_path, version, pad):
    vocab, _ = vocabularies.clip_bpe()
    tokenizer = Tokenizer.open(write_clip(tmp_path, **of_stable_diffusion(version)))
    assert tokenizer.pad == vocab[pad]
    assert tokenizer.encode(["a cat"])[0][0, -1] == vocab[pad]


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


def test_a_cut_keeps_the_end_and_says_what_was_dropped(clip, caplog):
    tokenizer = Tokenizer.open(clip, max_length=77)
    whole = "a red " + " ".join(["cat"] * 73)
    texts = [whole, f"{whole} On the  MAT 😀 in München ", whole.replace("a red", "a \n red", 1), f"{whole} cat"]
    room = len(expected_ids(whole))
    tokenizer = Tokenizer.open(clip, max_length=room)
    with caplog.at_level(logging.DEBUG):
        ids, mask = tokenizer.encode([*texts, texts[1]])
    first = expected_ids(whole)
    np.testing.assert_array_equal(ids, [first] * 5)
    assert mask.all()
    messages = [record.getMessage() for record in caplog.records]
    assert {(record.levelname, record.name) for record in caplog.records} == {("WARNING", "marble.data.tokenizer")}
    start = "the prompt 'a red cat cat cat cat cat cat cat cat c ...' has"
    assert messages == [
        f"{start} {len(expected_ids(texts[1]))} tokens and {room} are read: dropped 'On the  MAT 😀 in München'",
        f"{start} {room + 1} tokens and {room} are read: dropped 'cat'",
    ]


def test_a_cut_within_a_word_and_a_long_one(clip, caplog):
    tokenizer = Tokenizer.open(clip, max_length=5)
    tokenizer.encode(["zqzqzq!", "7" * 1000, "a 🐉🐉"])
    first, second, third = [record.getMessage() for record in caplog.records]
    count = len(expected_ids("zqzqzq!"))
    assert first == f"the prompt 'zqzqzq!' has {count} tokens and 5 are read: dropped 'qzq!'"
    assert "has 1002 tokens and 5 are read: dropped '777" in second and len(second) < 350
    # Of the four bytes of the first one the last is not read
    count = len(expected_ids("a 🐉🐉"))
    assert third == f"the prompt 'a 🐉🐉' has {count} tokens and 5 are read: dropped '🐉🐉'"


def test_special_tokens_in_a_text(clip):
    vocab, _ = vocabularies.clip_bpe()
    tokenizer = Tokenizer.open(clip, max_length=8)
    a = vocab["a</w>"]
    ids, mask = tokenizer.encode([f"a{END}a {START}"])
    assert ids[0].tolist() == [vocab[START], a, vocab[END], a, vocab[START], *[vocab[END]] * 3]
    assert mask[0].tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    "texts, message",
    [
        ("a cat", r"texts='a cat' must be a list of texts: write \[text\]"),
        (b"a cat", "must be a list of texts"),
        (None, "texts=None must be a list of texts"),
        (["a", None], "the text None is a NoneType: it must be a str"),
        (["a", 3], "the text 3 is a int"),
        ([["a", "b"]], r"the text \['a', 'b'\] is a list"),
        ([b"a"], "the text b'a' is a bytes"),
        (["a \ud83d b"], "has half a character"),
    ],
)
def test_what_is_no_text_is_refused(clip, texts, message):
    with pytest.raises(InputError, match=message):
        Tokenizer.open(clip).encode(texts)


@pytest.mark.parametrize("max_length", [1, 0, -3, 7.5, "77", True])
def test_a_length_must_hold_begin_and_end(clip, max_length):
    with pytest.raises(InputError, match=f"max_length={max_length!r} must be a whole number of at least 2"):
        Tokenizer.open(clip, max_length=max_length)


def one_line(folder):
    """The message of opening it."""
    with pytest.raises(InputError) as error:
        Tokenizer.open(folder)
    message = str(error.value)
    assert str(folder) in message and "\n" not in message and len(message) < 700
    return message


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
def test_folders_that_hold_no_tokenizer(tmp_path, name):
    files, message = FOLDERS[name]
    assert message in one_line(vocabularies.write(tmp_path, None, None, **files))


def test_a_file_and_nothing_are_no_folder(tmp_path, clip):
    for path in (tmp_path / "nothing", clip / "vocab.json"):
        assert "is no folder: give the folder of a tokenizer" in one_line(path)


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
def test_damaged_files_are_named(tmp_path, clip, name):
    file, damage, message = DAMAGED[name]
    folder = shutil.copytree(clip, tmp_path / "folder")
    damaged = damage((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert message in one_line(folder)


def piece(token):
    return {"SpecialToken": {"id": token, "type_id": 0}}


WRONG = {
    "no pairs": (("model", "merges"), [["a"]], "has the merge ['a']: it must be two symbols"),
    "numbers": (("model", "merges"), [1.5], "has the merge 1.5: it must be two symbols"),
    "no merges": (("model", "merges"), None, "holds no merges"),
    "no symbol": (("model", "merges"), ["a zz"], "merges 'a and zz', and 'zz' is not in the vocabulary"),
    "unknown": (("model", "unk_token"), "zz", "lacks the unk_token 'zz'"),
    "ids": (("model", "vocab"), {"a": True}, "the token 'a' has the id True"),
    "around": (("post_processor", "single"), [piece(END), piece(START)], f"puts {[END, START]} around a text, and bos"),
    "no single": (("post_processor", "single"), None, "has a damaged or unknown post_processor"),
    "other": (("post_processor",), {"type": "Other"}, "has a damaged or unknown post_processor"),
    "no cls": (("post_processor",), {"type": "RobertaProcessing", "sep": [END, 1]}, "has a damaged or unknown post_p"),
    "bare": (("added_tokens",), ["a"], "the added token 'a' with the id None must be an object with an id"),
    "no id": (("added_tokens",), [{"content": "a"}], "with the id None must be an object with an id"),
    "normalizer": (("normalizer",), {"type": "Other"}, "tokenizer.json is damaged: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tokenizer_json_is_named(tmp_path, clip, name):
    path, value, message = WRONG[name]
    Tokenizer.open(clip).save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    vocabularies.write(tmp_path, {}, None, **{"tokenizer.json": data})
    assert message in one_line(tmp_path)


def test_harmless_parts_of_a_tokenizer_json(tmp_path, clip):
    """Cuts and padding of its own, dropout, a prefix: rows are ours, and nothing is drawn."""
    tokenizer = Tokenizer.open(clip)
    tokenizer.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    data["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    data["padding"] = {
        **{"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None},
        **{"pad_id": 1, "pad_type_id": 0, "pad_token": "!"},
    }
    data["model"] |= {"dropout": 0.9, "continuing_subword_prefix": "##"}
    # As old versions of the library wrote it
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["model"].pop("type")
    vocabularies.write(tmp_path, None, None, **{"tokenizer.json": data})
    for ours, again in zip(tokenizer.encode(prompts()), Tokenizer.open(tmp_path).encode(prompts()), strict=True):
        np.testing.assert_array_equal(ours, again)


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[PAD]", "[UNK]"])
def test_bert_needs_its_special_tokens(tmp_path, bert, token):
    text = (bert / "vocab.txt").read_text(encoding="utf-8")
    folder = vocabularies.write(tmp_path, None, None, **{"vocab.txt": text.replace(token, "zzzzz")})
    assert repr(token) in one_line(folder)


def test_bert_s_settings_are_true_or_false(tmp_path):
    message = "do_lower_case='no' must be true or false"
    assert message in one_line(write_bert(tmp_path, config={"do_lower_case": "no"}))


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_what_is_saved_is_opened(request, tmp_path, kind):
    tokenizer = Tokenizer.open(request.getfixturevalue(kind), max_length=33)
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


def test_a_trained_one_gets_its_begin_and_end(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(special_tokens=["<", ">", "[UNK]", "_"], show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    tokenizer = Tokenizer(backend, begin="<", end=">", pad="_", max_length=6)
    expected = [0, *(backend.token_to_id(word) for word in ("a", "photo", "of")), 1, 3]
    assert tokenizer.encode(["a photo of"])[0].tolist() == [expected]
    tokenizer.save(tmp_path)
    assert Tokenizer.open(tmp_path).encode(["a photo of"])[0].tolist() == [expected]
    with pytest.raises(InputError, match="the token '!!' is not in the vocabulary"):
        Tokenizer(backend, begin="<", end="!!", pad="_", max_length=6)
    with pytest.raises(InputError, match=r"the tokens around a text are \[0, 1\], and not \[1, 0\]"):
        Tokenizer(backend, begin=">", end="<", pad="_", max_length=6)


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_mutated_files_end_in_one_line_or_open(request, tmp_path, kind):
    """Any damage is an InputError or harmless: what opens also encodes."""
    rng = random.Random(0)
    Tokenizer.open(request.getfixturevalue(kind)).save(tmp_path / "whole")
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
