"""CLIP's tokenizer by its definition, in a few lines and slow: lower case, words, byte pair encoding of each."""

import itertools
import random
import unicodedata

import numpy as np
import vocabularies
from vocabularies import END, SENTENCES, START

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
