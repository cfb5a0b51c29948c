"""What a file spends where: the levels its chain visits, the bits of each transition, how sure each prediction is.

All of it is from averages over training images, and is written in the file, so that both sides read the same numbers.

The continuous chain from the noise down to a level costs ½ ∫ E|x_0 - x_0_hat|² dSNR nats (Kingma et al. 2021, eq. 18),
and the pixels given x_t cost L_0(t). The chain ends where the sum is least, and visits levels of equal steps in cost.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from marble.compression.decoder import pixel_bits
from marble.compression.random_coding import MAX_BITS, Stream, Use, candidate, choose, generator
from marble.compression.transitions import BUCKETS, DEVIATIONS, bucket, posterior, reverse
from marble.data.preprocess import to_float
from marble.diffusion import Gaussian, Schedule, gaussian_kl
from marble.errors import InputError

PredictFn = Callable[[np.ndarray, int], np.ndarray]
"""predict(x_t [n d] float32, t) -> the predicted x_0 [n d] in [-1, 1], bit by bit the same each time."""

PRIOR_BITS = 0.1
"""An image's KL(q(x_t | x_0) || N(0, I)) at the level where the chain starts from noise."""
INEFFICIENCY = 1.5
"""What random coding takes for a bit of KL, about: where the chain should end depends on it weakly."""
CHUNK_BITS = 12
"""Of KL, about, in the transitions that are chosen where no number of steps is given."""
FEWEST, MOST = 4, 16
LADDER = 16
"""Levels at which the cost of the chain is measured."""


class Allocation(NamedTuple):
    """K transitions between K + 1 levels."""

    timesteps: tuple[int, ...]
    """[K+1], falling."""
    bits: tuple[int, ...]
    """[K]: of each chunk's number."""
    chunks: tuple[int, ...]
    """[K]: chunks that an image is cut in."""
    codes: np.ndarray
    """[K+1, BUCKETS] uint8: how sure the prediction is at each level, see ``transitions.DEVIATIONS``."""


def allocate(
    predict: PredictFn, schedule: Schedule, images: np.ndarray, levels: int, *, num_steps: int | None = None
) -> Allocation:
    """The allocation from training images [n d], integers in 0..levels-1.

    num_steps is K, from 4 to 16; None takes as many as chunks of about CHUNK_BITS call for. InputError outside of that,
    or where the schedule has fewer levels.
    """
    if num_steps is not None and not FEWEST <= num_steps <= MOST:
        raise InputError(f"num_steps={num_steps} must be between {FEWEST} and {MOST}")
    timesteps = _levels(predict, schedule, images, levels, num_steps)
    x_0 = np.asarray(to_float(images, levels))
    x_t = generator(Stream(Use.TRAINING_START)).standard_normal(x_0.shape, np.float32)
    codes, bits, chunks = [], [], []
    for i, (t, s) in enumerate(itertools.pairwise(timesteps)):
        prediction = predict(x_t, t)
        step = dict(x_t=x_t, schedule=schedule, t=t, s=s)
        q = posterior(x_0=x_0, **step)

        def reversed_by(deviation, prediction=prediction, step=step):
            return reverse(x_0=prediction, deviation=deviation, **step)

        codes.append(_fit(prediction, lambda deviation, q=q, p=reversed_by: _bits(q, p(deviation))))
        p = reversed_by(DEVIATIONS[codes[-1]][bucket(prediction)])
        wanted = max(1.0, _bits(q, p).sum() / len(images))
        chunks.append(math.ceil(wanted / MAX_BITS))
        bits.append(math.ceil(wanted / chunks[-1]))
        stream = Stream(Use.TRAINING_CANDIDATES, step=i)
        numbers = choose(q, p, stream, bits=bits[-1], chunks=chunks[-1])
        x_t = candidate(numbers, p, stream, bits=bits[-1])
    prediction = predict(x_t, timesteps[-1])
    codes.append(_fit(prediction, functools.partial(pixel_bits, images, prediction, levels=levels)))
    return Allocation(tuple(timesteps), tuple(bits), tuple(chunks), np.array(codes, np.uint8))


def _levels(
    predict: PredictFn, schedule: Schedule, images: np.ndarray, levels: int, num_steps: int | None
) -> list[int]:
    """The timesteps [K+1] of the chain: from noise down to where going on costs more than it saves."""
    log_snr, ladder = np.asarray(schedule.log_snr), _ladder(schedule, np.asarray(to_float(images, levels)))
    rate, pixels = _costs(predict, schedule, images, levels, ladder)
    end = int(np.argmin(INEFFICIENCY * rate + pixels))
    if num_steps is None:
        num_steps = int(np.clip(round(rate[end] / CHUNK_BITS), FEWEST, MOST))
    grid = np.interp(np.linspace(0, rate[end], num_steps + 1), rate, log_snr[ladder])
    timesteps = np.interp(-grid, -log_snr, np.arange(len(log_snr))).round().astype(int)
    count = np.arange(num_steps + 1)
    timesteps = np.minimum.accumulate(timesteps + count) - count  # no level twice
    if timesteps[-1] < 0:
        raise InputError(f"num_steps={num_steps} is too many for a schedule of {len(log_snr)} steps")
    return timesteps.tolist()


def _ladder(schedule: Schedule, x_0: np.ndarray) -> np.ndarray:
    """Timesteps, falling in even steps of log-SNR from the level where an image leaves PRIOR_BITS."""
    log_snr = np.asarray(schedule.log_snr)
    prior_bits = 0.5 * np.exp(log_snr) * (x_0**2).sum(axis=1).mean() / math.log(2)
    enough = prior_bits <= PRIOR_BITS
    top = int(np.argmax(enough)) if enough.any() else len(log_snr) - 1
    rising = np.linspace(log_snr[top], log_snr[0], LADDER)
    return np.unique(np.interp(-rising, -log_snr, np.arange(len(log_snr))).round().astype(int))[::-1]


def _costs(
    predict: PredictFn, schedule: Schedule, images: np.ndarray, levels: int, ladder: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bits an image, at each level of the ladder: of the chain down to it, and of the pixels given its x_t."""
    x_0 = np.asarray(to_float(images, levels))
    log_snr = np.asarray(schedule.log_snr)[ladder]
    errors, pixels = [], []
    for t in ladder.tolist():
        prediction = predict(_noised(schedule, x_0, t), t)
        errors.append(((x_0 - prediction) ** 2).sum(axis=1).mean())
        cost = functools.partial(pixel_bits, images, prediction, levels=levels)
        pixels.append(cost(DEVIATIONS[_fit(prediction, cost)][bucket(prediction)]).sum() / len(images))
    by_log_snr = np.array(errors) * np.exp(log_snr) / (2 * math.log(2))
    steps = np.diff(log_snr) * (by_log_snr[1:] + by_log_snr[:-1]) / 2
    return np.append(0, np.cumsum(steps)), np.array(pixels)


def _noised(schedule: Schedule, x_0: np.ndarray, t: int) -> np.ndarray:
    noise = generator(Stream(Use.COSTS, step=t)).standard_normal(x_0.shape, np.float32)
    return (schedule.alpha[t] * x_0 + schedule.sigma[t] * noise).astype(np.float32)


def _fit(prediction: np.ndarray, cost: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The code [BUCKETS] of the deviation that costs least, for the pixels of each bucket."""
    of = bucket(prediction)
    costs = (np.ravel(cost(np.full(prediction.shape, deviation))) for deviation in DEVIATIONS)
    totals = np.array([np.bincount(of.ravel(), each, BUCKETS) for each in costs])
    of_all = totals.sum(axis=1, keepdims=True)
    return np.argmin(totals + 1e-6 * of_all, axis=0)  # a bucket without pixels takes what suits all of them


def _bits(q: Gaussian, p: Gaussian) -> np.ndarray:
    """KL(q || p) of each pixel."""
    return np.asarray(gaussian_kl(q, p), np.float64) / math.log(2)
