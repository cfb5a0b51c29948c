"""Data of two Gaussians, with everything about them exact: a denoiser, the paths of the ODE, walks from given noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from marble.typing import Level, Prediction

MEAN, VARIANCE = 0.5, 0.04


def denoise(x_t, level, context=None):
    """The exact Prediction for x_0 ~ (N(MEAN, VARIANCE) + N(-MEAN, VARIANCE)) / 2, each pixel by itself."""
    level = level.like(x_t)
    total = level.alpha**2 * VARIANCE + level.sigma**2
    push = MEAN * jnp.tanh(level.alpha * MEAN * x_t / total)
    x_0 = (level.alpha * VARIANCE * x_t + level.sigma**2 * push) / total
    eps = level.sigma * (x_t - level.alpha * push) / total
    return Prediction(x_0, eps)


def ode_paths(levels: Level, quantiles: np.ndarray) -> np.ndarray:
    """Where the exact ODE is at these levels [n], for points [q] that start at these quantiles: [n q], float64.

    In one dimension the ODE keeps the order of points, so each stays at its quantile: solved by bisection.
    """
    alpha, sigma = (np.asarray(c, np.float64)[:, None] for c in (levels.alpha, levels.sigma))
    std = np.sqrt(alpha**2 * VARIANCE + sigma**2)
    low, high = -10 * (alpha + sigma) + 0 * quantiles, 10 * (alpha + sigma) + 0 * quantiles
    for _ in range(80):
        middle = (low + high) / 2
        below = 0.5 * (ndtr((middle - alpha * MEAN) / std) + ndtr((middle + alpha * MEAN) / std)) < quantiles
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def log_snr_levels(schedule, num_steps: int, log_snr_max: float = 4.0, log_snr_min: float = -4.0) -> Level:
    """num_steps + 1 levels even in log-SNR, both ends noisy."""
    return schedule.level_at(jnp.linspace(log_snr_min, log_snr_max, num_steps + 1))


def walk(sampler, denoise_fn, levels, x, noise, *, repair: Callable | None = None):
    """The states [n b ...] of a sampler from x along levels [n + 1], its noise (in place of keys) being given [n ...].

    For a test that has replaced noise_like by ``lambda noise, x: noise``. repair(i, x, carry) -> (x, carry) is called
    before each step.
    """
    at = lambda i: jax.tree.map(lambda table: jnp.asarray(table)[i], levels)  # noqa: E731

    def body(state, inputs):
        (i, noise), (x, carry) = inputs, state
        if repair is not None:
            x, carry = repair(i, x, carry)
        step = sampler.step(denoise_fn, at(i), at(i + 1), x, carry, noise)
        return (step.x, step.carry), step.x

    count = levels.alpha.shape[0] - 1
    start = (x, sampler.init(x, count))
    return jax.lax.scan(body, start, (jnp.arange(count), noise))[1]


QUANTILES = np.array([0.1, 0.3, 0.45, 0.8])


def order_of_convergence(
    sampler, schedule, *, exact_steps: int = 0, remember: Callable | None = None, steps=(64, 128, 256)
) -> float:
    """The slope of log error over log step of an ODE sampler: float64 (under x64), unclipped, even steps in log-SNR.

    The first exact_steps steps, and one more, start from the exact path, so that a multistep method has exact values to
    start with. remember(carry, x) -> carry, for one that keeps its own x, puts the exact one there.
    """

    @jax.jit
    def states(levels, path):
        def repair(i, x, carry):
            is_start = i <= exact_steps
            fixed = carry if remember is None else remember(carry, path[i - 1])
            carry = jax.tree.map(lambda a, b: jnp.where(is_start, a, b), fixed, carry)
            return jnp.where(is_start, path[i], x), carry

        keys = jnp.broadcast_to(jax.random.key(0), (max(steps), len(QUANTILES)))
        return walk(sampler, denoise, levels, path[0], keys, repair=repair)

    errors = []
    for num_steps in steps:
        levels = log_snr_levels(schedule, num_steps)
        path = ode_paths(levels, QUANTILES)
        # One program for all: what comes after num_steps is not looked at.
        missing = max(steps) - num_steps
        levels, padded = jax.tree.map(
            lambda a, n=missing: jnp.concatenate([a, jnp.repeat(a[-1:], n, 0)]), (levels, jnp.asarray(path))
        )
        end = states(levels, padded)[num_steps - 1]
        errors.append(float(jnp.abs(end - path[-1]).max()))
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
