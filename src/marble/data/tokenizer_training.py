"""A tokenizer like CLIP's, with a vocabulary learnt from given texts by the ``tokenizers`` library."""

import json
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import trainers

from marble.data.tokenizer import Tokenizer
from marble.data.tokenizer_pipelines import clip
from marble.data.tokenizer_special import END, START
from marble.errors import InputError

LEAST = 2 * 256 + 2
"""Tokens of a vocabulary without a merge: each byte, within a word and at its end, and two around a text."""
LEAST_FREQUENCY = 2
"""How often a pair of symbols has to be seen to become one."""


def learnt(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """The merges of byte pair encoding of these texts, as JSON; InputError for too small a vocabulary, or no text.

    (Sennrich et al. 2016.) There are fewer than vocab_size asks for where the texts have no more.
    """
    if vocab_size < LEAST:
        raise InputError(f"tokenizer.vocab_size={vocab_size} must be at least {LEAST}: there are 256 bytes")
    backend = _backend({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len((START, END)),
        min_frequency=LEAST_FREQUENCY,
        end_of_word_suffix="</w>",
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    words = [text for text in texts if text.strip()]
    if not words:
        raise InputError("all texts of the data are empty: there is nothing to learn a vocabulary from")
    backend.train_from_iterator(words, trainer)
    merges = [list(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    return {"merges": merges[: vocab_size - LEAST]}


def tokenizer_of(found: dict[str, Any], *, max_length: int) -> Tokenizer:
    """The tokenizer with these merges, its ids in CLIP's order: bytes, bytes that end a word, merges, start, end."""
    alphabet = _alphabet()
    merges = [tuple(pair) for pair in found["merges"]]
    vocab = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *map("".join, merges), START, END]
    backend = _backend({token: i for i, token in enumerate(vocab)}, merges)
    backend.add_special_tokens([START, END])
    return Tokenizer(backend, begin=START, end=END, pad=END, max_length=max_length)


def _backend(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(clip(vocab, merges, unknown=END)))


def _alphabet() -> list[str]:
    """The printable characters that stand for bytes, in CLIP's order: those that print, then the others."""
    printed = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    return [*map(chr, printed), *(chr(256 + i) for i in range(256 - len(printed)))]
