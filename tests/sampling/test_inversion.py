"""The probability flow upward: the exact map for Gaussian data, and back again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture import denoise

from marble.diffusion import linear, rectified_flow
from marble.sampling import ODE, image_keys, levels, sample
from marble.sampling.inversion import invert
from marble.typing import Prediction

VARIANCE = 0.25


def gaussian(x_t, level, context=None):
    """The exact prediction for x_0 ~ N(0, VARIANCE)."""
    level = level.like(x_t)
    total = level.alpha**2 * VARIANCE + level.sigma**2
    return Prediction(level.alpha * VARIANCE / total * x_t, level.sigma / total * x_t)


X_0 = np.random.default_rng(0).normal(0, 0.4, (5, 4, 4, 1)).clip(-1, 1)


def upward(denoise_fn, schedule, x_0, num_steps=50, tolerance=1e-7):
    grid = levels(schedule, num_steps)
    ode = ODE(schedule, rtol=tolerance, atol=tolerance)
    return invert(denoise_fn, ode, jax.tree.map(lambda table: jnp.asarray(table)[0], grid), x_0), grid, ode


def test_gaussian_data_are_scaled_as_the_flow_scales_them():
    schedule = linear()
    with jax.enable_x64(True):
        x_T, *_ = upward(gaussian, schedule, jnp.asarray(X_0))
        last = schedule.level(999)
        # The flow keeps x_t / its deviation. At the first level x_t is that of which x_0 is predicted.
        first = schedule.level(0)
        total = first.alpha**2 * VARIANCE + first.sigma**2
        start = X_0 * total / (first.alpha * VARIANCE)
        expected = start * np.sqrt((last.alpha**2 * VARIANCE + last.sigma**2) / total)
        np.testing.assert_allclose(x_T, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.asarray(x_T).std() / X_0.std(), 1 / np.sqrt(VARIANCE), rtol=1e-2)


@pytest.mark.parametrize("schedule", [linear(), rectified_flow()], ids=["steps", "continuous"])
def test_there_and_back_of_a_mixture(schedule):
    # Images of the data: the two modes, a little noisy.
    rng = np.random.default_rng(1)
    x_0 = (0.5 * rng.choice([-1, 1], (6, 4, 4, 1)) + 0.2 * rng.normal(size=(6, 4, 4, 1))).clip(-1, 1).astype(np.float32)
    x_T, grid, ode = upward(denoise, schedule, x_0, tolerance=1e-6)
    back = sample(denoise, ode, grid, image_keys(0, np.arange(6)), (4, 4, 1), noise=x_T)
    np.testing.assert_allclose(back, x_0, atol=2e-3)
    assert abs(np.asarray(x_T).std() - 1) < 0.15 and np.abs(np.asarray(x_T) - x_0).max() > 0.3
