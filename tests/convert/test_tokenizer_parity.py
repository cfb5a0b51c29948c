"""The tokenizer beside transformers' CLIPTokenizer and BertTokenizer, opened from the same folders.

With MARBLE_CLIP, a folder that has vocab.json and merges.txt of CLIP, and MARBLE_MINILM, one that has tokenizer.json of
all-MiniLM-L6-v2, the real vocabularies are compared too.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import vocabularies
from vocabularies import END, of_stable_diffusion, texts, write_bert, write_clip

from marble.data.tokenizer import Tokenizer

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

BERT = {"tokenizer_class": "BertTokenizer", "model_max_length": 60}


def added(name, index, **flags):
    return {str(index): {"content": name, **{**vocabularies.SD_1, "content": name, "special": False, **flags}}}


def of_textual_inversion():
    """A token that was added for a picture's subject, after the vocabulary's, and a special one."""
    vocab, _ = vocabularies.clip_bpe()
    files = of_stable_diffusion("xl")
    files["config"]["added_tokens_decoder"] |= added("<cat-toy>", len(vocab))
    files["config"]["added_tokens_decoder"] |= added("mat", len(vocab) + 1, single_word=True, lstrip=True)
    return files


CLIP_FOLDERS = {
    "bare": dict,
    "stable diffusion 1": lambda: of_stable_diffusion(1),
    "stable diffusion 2": lambda: of_stable_diffusion(2),
    "stable diffusion xl": lambda: of_stable_diffusion("xl"),
    "the config alone": lambda: {**of_stable_diffusion("xl"), "special_map": {"pad_token": "?", "unk_token": "!"}},
    "textual inversion": of_textual_inversion,
    "no pad": lambda: {"config": {"model_max_length": 1e30}},
    "extra": lambda: {"special_map": {"pad_token": "!", "additional_special_tokens": ["<extra>", "cat"]}},
    "another end": lambda: {"special_map": {"eos_token": "!", "pad_token": {"content": "?", "lstrip": True}}},
}
BERT_FOLDERS = {
    "bare": dict,
    "lower": lambda: {"config": BERT, "special_map": {"pad_token": "[PAD]", "mask_token": "[MASK]"}},
    "cased": lambda: {"config": {**BERT, "do_lower_case": False}},
    "accents": lambda: {"config": {**BERT, "strip_accents": False}},
    "cased without accents": lambda: {"config": {**BERT, "do_lower_case": False, "strip_accents": True}},
    "chinese": lambda: {"config": {**BERT, "tokenize_chinese_chars": False}},
    "other tokens": lambda: {
        "config": {**BERT, "cls_token": "[unused0]"},
        "special_map": {"pad_token": {"content": "[unused1]"}},
    },
}


def assert_equal(ours, theirs, prompts):
    """The same ids and masks, padded and cut to our max_length."""
    expected = theirs(prompts, padding="max_length", truncation=True, max_length=ours.max_length)
    ids, mask = ours.encode(prompts)
    different = [prompts[i] for i in np.flatnonzero((ids != np.asarray(expected["input_ids"])).any(axis=1))]
    assert not different, different[:5]
    np.testing.assert_array_equal(mask, np.asarray(expected["attention_mask"], bool))


def assert_same_tokenizer(folder, theirs, tmp_path, prompts):
    """Ours is theirs; so is what we save, by their class and AutoTokenizer; and so is what they save, by ours."""
    ours = Tokenizer.open(folder)
    class_ = type(theirs)
    assert_equal(ours, theirs, prompts)
    assert (ours.vocab_size, ours.pad) == (len(theirs), theirs.pad_token_id)
    assert ours.max_length == theirs.model_max_length or theirs.model_max_length > 1e9
    ours.save(tmp_path / "ours")
    for opened in (class_, transformers.AutoTokenizer):
        again = opened.from_pretrained(tmp_path / "ours")
        assert isinstance(again, class_)
        assert_equal(ours, again, prompts)
        assert (again.pad_token_id, again.model_max_length) == (ours.pad, ours.max_length)
    assert_equal(Tokenizer.open(tmp_path / "ours"), theirs, prompts)
    theirs.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "tokenizer.json").exists()
    assert_equal(Tokenizer.open(tmp_path / "theirs"), theirs, prompts)


@pytest.mark.parametrize("name", CLIP_FOLDERS)
def test_clip(name, tmp_path):
    folder = write_clip(tmp_path / "folder", **CLIP_FOLDERS[name]())
    assert_same_tokenizer(folder, transformers.CLIPTokenizer.from_pretrained(folder), tmp_path, texts())


@pytest.mark.parametrize("name", BERT_FOLDERS)
def test_bert(name, tmp_path):
    folder = write_bert(tmp_path / "folder", **BERT_FOLDERS[name]())
    assert_same_tokenizer(folder, transformers.BertTokenizer.from_pretrained(folder), tmp_path, texts())


def test_added_tokens_json(tmp_path):
    vocab, _ = vocabularies.clip_bpe()
    folder = write_clip(tmp_path / "folder", special_map={"pad_token": "<pad>"})
    vocabularies.write(folder, None, None, **{"added_tokens.json": {"<Cat-Toy>": len(vocab) + 1, "<pad>": len(vocab)}})
    prompts = [*texts(count=30), "a <Cat-Toy> in <cat-toy> of <pad> <PAD>"]
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    assert theirs.pad_token_id == len(vocab)
    assert_same_tokenizer(folder, theirs, tmp_path, prompts)


@pytest.mark.parametrize("max_length", [2, 3, 20, 77, 200])
def test_any_length(tmp_path, max_length):
    folder = write_clip(tmp_path, **of_stable_diffusion(2))
    prompts = texts(seed=1, count=60)
    assert_equal(
        Tokenizer.open(folder, max_length=max_length), transformers.CLIPTokenizer.from_pretrained(folder), prompts
    )


def test_a_pipeline_of_its_own_stays_when_it_is_saved(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers.CLIPTokenizer.from_pretrained(write_clip(tmp_path / "a")).save_pretrained(tmp_path / "b")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "b" / "tokenizer.json"))
    backend.normalizer = tokenizers.normalizers.NFC()
    Tokenizer(backend, begin=vocabularies.START, end=END, pad=END, max_length=77).save(tmp_path / "c")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "c")
    upper, lower = theirs(["A Cat", "a cat"])["input_ids"]
    assert upper != lower
    assert_equal(Tokenizer.open(tmp_path / "c"), theirs, texts(count=60))


@pytest.mark.skipif("MARBLE_CLIP" not in os.environ, reason="MARBLE_CLIP names no folder of CLIP's vocabulary")
def test_clip_s_own_vocabulary(tmp_path):
    folder = Path(os.environ["MARBLE_CLIP"])
    ours = Tokenizer.open(folder)
    assert (ours.vocab_size, ours.begin, ours.end) == (49408, 49406, 49407)
    # What CLIP's users know by heart
    assert ours.encode(["a photo of a cat"])[0][0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert_same_tokenizer(
        folder, transformers.CLIPTokenizer.from_pretrained(folder), tmp_path, texts(seed=2, count=3000)
    )


@pytest.mark.skipif("MARBLE_MINILM" not in os.environ, reason="MARBLE_MINILM names no folder of all-MiniLM-L6-v2")
def test_minilm_s_own_vocabulary(tmp_path):
    folder = Path(os.environ["MARBLE_MINILM"])
    ours = Tokenizer.open(folder)
    assert (ours.vocab_size, ours.begin, ours.end, ours.pad) == (30522, 101, 102, 0)
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    assert_same_tokenizer(folder, theirs, tmp_path, texts(seed=3, count=3000))
