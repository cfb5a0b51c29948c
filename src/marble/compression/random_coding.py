"""Minimal random coding: x_s in a few bits, from candidates of p that both sides draw.

Encoder and decoder draw the same 2^bits candidates x = mean_p + deviation_p z. The encoder takes one by its weight
q(x) / p(x) and sends its number (Havasi, Peharz and Hernández-Lobato 2019). The cost is the number's bits, whatever q
is, and the decoder needs p and the number alone.

At the temperature 1 the number is drawn in proportion to the weights: x is a sample of q, nearly so once 2^bits is well
above exp(KL(q || p)). At 0 it is the likeliest: of few candidates the most that they can say about x_0, which makes
files shorter, and is what they are written with.

Numbers of few bits keep the search short, so x is cut in chunks, each with candidates of its own. All images share
the z of a chunk: their scores are then one product of matrices, and each image's candidates are as random as before.
"""

import enum
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from marble.diffusion import Gaussian

MAX_BITS = 16
"""Of a chunk: 65,536 candidates."""
BLOCK = 1 << 12
"""Candidates that are drawn and scored at a time."""


class Use(enum.IntEnum):
    """What random numbers are for. No number is 0: see ``generator``."""

    START = 1
    """A file's noise at the first level."""
    CANDIDATES = 2
    """Those of a file's transitions."""
    TRAINING_START = 3
    TRAINING_CANDIDATES = 4
    """What training images are walked with."""
    COSTS = 5
    """The noise in which the cost of the chain is measured."""
    BOUND = 6
    """The noise in which a file's bound is measured."""


class Stream(NamedTuple):
    """Names random numbers: what they are for, the seed, the step, and the chunk of an image."""

    use: Use
    seed: int = 0
    step: int = 0
    chunk: int = 0


def generator(stream: Stream) -> np.random.Generator:
    """The random numbers of a stream, which no other stream has: the same wherever and whenever."""
    # The use is last and never 0: NumPy's seeds that differ in zeros at their end are the same.
    words = (stream.seed, stream.step, stream.chunk, stream.use)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def choose(q: Gaussian, p: Gaussian, stream: Stream, *, bits: int, chunks: int, temperature: float = 0.0) -> np.ndarray:
    """The numbers [n chunks] of the candidates taken for n images; all means and variances are [n d].

    Each chunk has candidates of the stream's own for it.
    """
    square = (0.5 * (1 - p.variance / q.variance)).astype(np.float32)
    linear = (np.sqrt(p.variance) * (q.mean - p.mean) / q.variance).astype(np.float32)
    chance = generator(stream._replace(chunk=chunks))  # behind those of the chunks
    chosen = np.zeros((len(linear), chunks), np.int64)
    for chunk in range(chunks):
        part = np.s_[:, chunk::chunks]
        best = np.full(len(linear), -np.inf, np.float32)
        for first, z in _candidates(stream, chunk, bits, linear[part].shape[1]):
            scores = square[part] @ (z**2).T + linear[part] @ z.T  # log q(x) / p(x), but for a constant
            if temperature:  # the largest of Gumbel-perturbed scores is a draw (1e-30: no log of 0)
                scores -= temperature * np.log(chance.standard_exponential(scores.shape, np.float32) + 1e-30)
            leader = scores.argmax(axis=1)
            score = scores[np.arange(len(scores)), leader]
            chosen[:, chunk] = np.where(score > best, first + leader, chosen[:, chunk])
            best = np.maximum(score, best)
    return chosen


def candidate(numbers: np.ndarray, p: Gaussian, stream: Stream, *, bits: int) -> np.ndarray:
    """The candidates [n d] of these numbers [n chunks]: mean_p + deviation_p z, in float32."""
    chunks = numbers.shape[1]
    z = np.empty(p.mean.shape, np.float32)
    for chunk in range(chunks):
        columns = z[:, chunk::chunks]
        for first, block in _candidates(stream, chunk, bits, columns.shape[1]):
            here = (numbers[:, chunk] >= first) & (numbers[:, chunk] < first + len(block))
            columns[here] = block[numbers[here, chunk] - first]
    return (p.mean + np.sqrt(p.variance) * z).astype(np.float32)


def _candidates(stream: Stream, chunk: int, bits: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first, z [rows size]) of all candidates, block by block."""
    numbers = generator(stream._replace(chunk=chunk))
    for first in range(0, 1 << bits, BLOCK):
        yield first, numbers.standard_normal((min(BLOCK, (1 << bits) - first), size), np.float32)
