"""A vocabulary that is learnt: what its merges are, and that its files open again."""

import numpy as np
import pytest
import vocabularies

from marble.data import tokenizer_training
from marble.data.tokenizer import Tokenizer
from marble.data.tokenizer_training import LEAST
from marble.errors import InputError

TEXTS = [*vocabularies.SENTENCES, *(["a red fox"] * 20), ""]


def learnt(vocab_size=600, max_length=16):
    return tokenizer_training.tokenizer_of(tokenizer_training.learnt(TEXTS, vocab_size), max_length=max_length)


def test_the_most_frequent_pair_is_merged_first():
    """Of 20 times "a red fox": a pair of bytes that is seen 20 times, and then what it is a part of."""
    found = tokenizer_training.learnt(["red"] * 5 + ["bed"] * 4 + ["fox"] * 3, LEAST + 3)
    assert [tuple(pair) for pair in found["merges"]] == [("e", "d</w>"), ("r", "ed</w>"), ("b", "ed</w>")]


def test_words_that_are_seen_often_become_one_token():
    tokenizer = learnt()
    assert tokenizer.vocab_size <= 600
    ids, mask = tokenizer.encode(["A red  FOX"])
    assert mask.sum() == 5 and ids[0, 0] == tokenizer.begin and ids[0, 4] == tokenizer.end
    np.testing.assert_array_equal(ids, tokenizer.encode(["a red fox"])[0])


def test_any_text_is_made_of_bytes():
    tokenizer = learnt(LEAST)
    ids, _ = tokenizer.encode(["狐🦊"])
    assert tokenizer.vocab_size == LEAST
    assert len(set(ids[0])) > 5 and (ids[0] < LEAST).all()


def test_its_files_open_again(tmp_path):
    tokenizer = learnt()
    tokenizer.save(tmp_path)
    again = Tokenizer.open(tmp_path, max_length=16)
    texts = [*TEXTS, "something <|endoftext|> else 🙂"]
    for ours, theirs in zip(tokenizer.encode(texts), again.encode(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.begin, again.end, again.pad, again.vocab_size) == (
        *(tokenizer.begin, tokenizer.end, tokenizer.end),
        tokenizer.vocab_size,
    )


@pytest.mark.parametrize(
    "texts, size, message",
    [
        (TEXTS, LEAST - 1, f"tokenizer.vocab_size={LEAST - 1} must be at least {LEAST}: there are 256 bytes"),
        (["", "  "], 600, "all texts of the data are empty: there is nothing to learn a vocabulary from"),
    ],
)
def test_what_can_t_be_learnt(texts, size, message):
    with pytest.raises(InputError, match=message):
        tokenizer_training.learnt(texts, size)
