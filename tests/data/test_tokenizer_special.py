"""Special tokens of a tokenizer's files: which is the pad, and how they are found in a text."""

import pytest
import vocabularies
from vocabularies import END, START, of_stable_diffusion, write_clip

from marble.data.tokenizer import Tokenizer


@pytest.mark.parametrize("version, pad", [(1, END), (2, "!"), ("xl", "!")])
def test_the_pads_of_stable_diffusion(tmp_path, version, pad):
    vocab, _ = vocabularies.clip_bpe()
    tokenizer = Tokenizer.open(write_clip(tmp_path, **of_stable_diffusion(version)))
    assert tokenizer.pad == vocab[pad]
    assert tokenizer.encode(["a cat"])[0][0, -1] == vocab[pad]


def test_special_tokens_in_a_text(clip_folder):
    vocab, _ = vocabularies.clip_bpe()
    tokenizer = Tokenizer.open(clip_folder, max_length=8)
    a = vocab["a</w>"]
    ids, mask = tokenizer.encode([f"a{END}a {START}"])
    assert ids[0].tolist() == [vocab[START], a, vocab[END], a, vocab[START], *[vocab[END]] * 3]
    assert mask[0].tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[PAD]", "[UNK]"])
def test_bert_needs_its_special_tokens(refusal, tmp_path, bert_folder, token):
    text = (bert_folder / "vocab.txt").read_text(encoding="utf-8")
    folder = vocabularies.write(tmp_path, None, None, **{"vocab.txt": text.replace(token, "zzzzz")})
    assert repr(token) in refusal(folder)
