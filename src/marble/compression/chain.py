"""Images to sections of bytes and back: a section a transition, then the pixels.

Both sides walk the same chain. At each level they ask the network for x_0, of what was decoded so far and nothing else,
and so have the same p(x_s | x_t); the encoder, who knows x_0, sends which candidate of it to take. From the last level
the pixels are coded under p(x_0 | x_t), exactly.

x_t at the first level is noise that both sides draw; ``allocation`` starts where an image leaves no more than
PRIOR_BITS in it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from marble.compression import entropy, random_coding
from marble.compression.allocation import Allocation, PredictFn
from marble.compression.decoder import level_probabilities, pixel_bits
from marble.compression.random_coding import Stream, Use
from marble.compression.transitions import DEVIATIONS, bucket, posterior, reverse
from marble.data.preprocess import to_float
from marble.diffusion import Schedule, gaussian_kl
from marble.errors import InputError

BLOCK = 1 << 14
"""Pixels whose tables are in memory at a time."""


class Chain(NamedTuple):
    """What encoder and decoder share. The images are count rows of size pixels, integers in 0..levels-1."""

    predict: PredictFn
    schedule: Schedule
    allocation: Allocation
    levels: int
    count: int
    size: int
    seed: int

    @property
    def num_steps(self) -> int:
        """K, the number of transitions."""
        return len(self.allocation.bits)

    def start(self) -> np.ndarray:
        """x_t [n d] at the first level."""
        numbers = random_coding.generator(Stream(Use.START, self.seed))
        return numbers.standard_normal((self.count, self.size), np.float32)

    def candidates(self, i: int) -> Stream:
        """The stream of transition i's candidates."""
        return Stream(Use.CANDIDATES, self.seed, step=i)

    def look(self, i: int, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(prediction, deviation) of x_0 [n d] at level i of the chain."""
        prediction = self.predict(x_t, self.allocation.timesteps[i])
        return prediction, DEVIATIONS[self.allocation.codes[i]][bucket(prediction)]

    def step(self, i: int, x_t: np.ndarray) -> dict:
        """The arguments that ``posterior`` and ``reverse`` share in transition i."""
        return dict(x_t=x_t, schedule=self.schedule, t=self.allocation.timesteps[i], s=self.allocation.timesteps[i + 1])


class Encoded(NamedTuple):
    """The sections, and Σ -log2 of the probabilities that were used for all images, in bits."""

    sections: list[bytes]
    ideal_bits: float


def encode(chain: Chain, pixels: np.ndarray) -> Encoded:
    """The sections of images: pixels [n d], integers in 0..levels-1."""
    x_0, x_t = np.asarray(to_float(pixels, chain.levels)), chain.start()
    sections, ideal_bits = [], 0.0
    for i, (bits, chunks) in enumerate(zip(chain.allocation.bits, chain.allocation.chunks, strict=True)):
        prediction, deviation = chain.look(i, x_t)
        p = reverse(x_0=prediction, deviation=deviation, **chain.step(i, x_t))
        q = posterior(x_0=x_0, **chain.step(i, x_t))
        numbers = random_coding.choose(q, p, chain.candidates(i), bits=bits, chunks=chunks)
        x_t = random_coding.candidate(numbers, p, chain.candidates(i), bits=bits)
        sections.append(pack(numbers, bits))
        ideal_bits += numbers.size * bits
    parts = [
        entropy.intervals(table, symbols)
        for table, symbols in zip(
            _tables(chain, *chain.look(chain.num_steps, x_t)), _blocks(pixels.astype(np.int64)), strict=True
        )
    ]
    starts, frequencies = (np.concatenate(part) for part in zip(*parts, strict=True))
    sections.append(entropy.encode(starts, frequencies))
    return Encoded(sections, ideal_bits + entropy.ideal_bits(frequencies))


def decode(chain: Chain, sections: Sequence[bytes]) -> tuple[np.ndarray, bool]:
    """(images [n d], whether they are exact) from the first sections of a file.

    With all K + 1 sections they are the pixels, integers; with fewer, the x_0 in [-1, 1] that is predicted at the
    deepest level that was reached.
    """
    x_t = chain.start()
    for i, section in enumerate(sections[: chain.num_steps]):
        prediction, deviation = chain.look(i, x_t)
        p = reverse(x_0=prediction, deviation=deviation, **chain.step(i, x_t))
        bits, chunks = chain.allocation.bits[i], chain.allocation.chunks[i]
        numbers = unpack(section, (chain.count, chunks), bits)
        x_t = random_coding.candidate(numbers, p, chain.candidates(i), bits=bits)
    prediction, deviation = chain.look(min(len(sections), chain.num_steps), x_t)
    if len(sections) <= chain.num_steps:
        return prediction, False
    decoder = entropy.Decoder(sections[-1])
    symbols = [decoder.read(table) for table in _tables(chain, prediction, deviation)]
    decoder.finish()
    return np.concatenate(symbols).reshape(chain.count, chain.size), True


def bound_bits(chain: Chain, pixels: np.ndarray, seed: int) -> float:
    """The chain's negative ELBO of all images together, in bits, from one draw of x_t ~ q(x_t | x_0) a level.

    L_T, the transitions' KL(q || p) and the pixels' -log2 p(x_0 | x_t): what a code without overhead would take.
    """
    x_0 = np.asarray(to_float(pixels, chain.levels))
    nats = 0.0
    for i, t in enumerate(chain.allocation.timesteps):
        alpha, sigma = chain.schedule.alpha[t], chain.schedule.sigma[t]
        noise = random_coding.generator(Stream(Use.BOUND, seed, step=i)).standard_normal(x_0.shape, np.float32)
        x_t = (alpha * x_0 + sigma * noise).astype(np.float32)
        if i == 0:
            nats += 0.5 * (alpha**2 * x_0**2 + sigma**2 - 1 - 2 * math.log(sigma)).sum(dtype=np.float64)
        prediction, deviation = chain.look(i, x_t)
        if i < chain.num_steps:
            step = chain.step(i, x_t)
            p = reverse(x_0=prediction, deviation=deviation, **step)
            nats += float(np.asarray(gaussian_kl(posterior(x_0=x_0, **step), p), np.float64).sum())
    return nats / math.log(2) + pixel_bits(pixels, prediction, deviation, chain.levels).sum()


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers below 2^bits, one behind the other."""
    return np.packbits(numbers.reshape(-1, 1) >> np.arange(bits)[::-1] & 1).tobytes()


def unpack(section: bytes, shape: tuple[int, int], bits: int) -> np.ndarray:
    """The numbers of a section; InputError unless it holds that many."""
    if len(section) != packed_size(shape[0] * shape[1], bits):
        raise InputError(f"a section of {len(section)} bytes is not of {shape[0]} images: the file is damaged")
    digits = np.unpackbits(np.frombuffer(section, np.uint8), count=shape[0] * shape[1] * bits).astype(np.int64)
    return (digits.reshape(*shape, bits) << np.arange(bits)[::-1]).sum(axis=2)


def packed_size(count: int, bits: int) -> int:
    """The bytes of a section of count numbers."""
    return -(-count * bits // 8)


def _tables(chain: Chain, prediction: np.ndarray, deviation: np.ndarray) -> Iterator[np.ndarray]:
    for mean, spread in zip(_blocks(prediction), _blocks(deviation), strict=True):
        yield entropy.cumulative_frequencies(level_probabilities(mean, spread, chain.levels))


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    flat = values.reshape(-1)
    for first in range(0, len(flat), BLOCK):
        yield flat[first : first + BLOCK]
