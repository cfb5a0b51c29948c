"""A chain of which all is known: pixels around 0 and the linear denoiser that is exact for N(0, VARIANCE)."""

import numpy as np

from marble.compression import Allocation, Chain
from marble.compression.transitions import BUCKETS
from marble.diffusion import linear

LEVELS, SIZE, VARIANCE = 17, 12, 0.1
SCHEDULE = linear(100, beta_start=1e-3, beta_end=0.2)
CODES = np.array([11, 12, 14, 16], np.uint8)[:, None].repeat(BUCKETS, axis=1)
ALLOCATION = Allocation(timesteps=(99, 40, 25, 12), bits=(7, 6, 5), chunks=(1, 2, 3), codes=CODES)


def gain(t):
    """x_0_hat = gain x_t."""
    alpha, sigma = SCHEDULE.alpha[t], SCHEDULE.sigma[t]
    return alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)


def predict(x_t, t):
    return np.clip(gain(t) * x_t, -1, 1).astype(np.float32)


def data(count, seed=0):
    """Pixels [count SIZE] of N(0, VARIANCE), cut in LEVELS."""
    x_0 = np.random.default_rng(seed).normal(scale=VARIANCE**0.5, size=(count, SIZE))
    return np.clip(np.round((x_0 + 1) * (LEVELS - 1) / 2), 0, LEVELS - 1).astype(np.int64)


def chain(count, seed=0, allocation=ALLOCATION):
    return Chain(predict, SCHEDULE, allocation, LEVELS, count, SIZE, seed)
