"""How well a pair's other half is found among many."""

from collections.abc import Sequence

import numpy as np


def recall(queries: np.ndarray, candidates: np.ndarray, texts: Sequence[str], *, k: int = 1) -> float:
    """The share of queries [n d] with a pair among the k candidates [n d] that are most similar to them.

    i and j are a pair where texts i and j are equal. Candidates that are equally similar stand in any order, all of
    which count: embeddings that are all the same find as much as chance does, ``recall(zeros, zeros, texts)``.
    """
    similar = queries @ candidates.T
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    labels = np.array([numbers[text] for text in texts])
    is_pair = labels[:, None] == labels[None]
    best = np.where(is_pair, similar, -np.inf).max(axis=1, keepdims=True)
    above = ((similar > best) & ~is_pair).sum(axis=1)
    ties, pairs = (((similar == best) & of).sum(axis=1) for of in (~is_pair, is_pair))
    missed = np.ones(len(queries))
    for place in range(k):  # the chance that none of the pairs stands at the places left, drawn without replacement
        is_left = place < k - above
        others = np.maximum(ties - place, 0)
        missed *= np.where(is_left, others / np.maximum(others + pairs, 1), 1.0)
    return float(1 - missed.mean())
