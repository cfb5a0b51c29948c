"""Langevin corrections, with Gaussian data: they leave the exact distribution as it is, and lead a wrong one to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import linear
from marble.errors import InputError
from marble.sampling import DDIM, Ancestral, PredictorCorrector, image_keys, levels, noise_like, sample
from marble.sampling.predictor_corrector import langevin_step
from marble.typing import Prediction

SCHEDULE, VARIANCE = linear(), 0.25


def denoise(x, level, context=None):
    level = level.like(x)
    total = level.alpha**2 * VARIANCE + level.sigma**2
    return Prediction(level.alpha * VARIANCE * x / total, level.sigma * x / total)


@pytest.mark.parametrize("start", [0.25, 1.0, 3.0])
def test_a_correction_has_the_variance_of_its_recursion(start):
    # For x ~ N(0, start S) and the score -x / S in many dimensions |score|² is start n / S, so that
    # step = 2 snr² S / start and the variance after it is ((1 - step / S)² start + 2 step / S) S.
    level, snr = SCHEDULE.level(300), 0.16
    total = float(level.alpha**2 * VARIANCE + level.sigma**2)
    x = jax.random.normal(jax.random.key(0), (4, 50_000)) * np.sqrt(start * total)
    noise = noise_like(image_keys(0, jnp.arange(4)), x)
    corrected = langevin_step(x, denoise(x, level).eps, level, noise=noise, snr=snr)
    step = 2 * snr**2 / start
    expected = ((1 - step) ** 2 * start + 2 * step) * total
    assert float(corrected.var()) == pytest.approx(expected, rel=5 * np.sqrt(2 / x.size) + 1e-3)


def test_no_corrections_are_the_predictor():
    grid, keys = levels(SCHEDULE, 5), image_keys(0, jnp.arange(2))
    plain = sample(denoise, Ancestral(), grid, keys, (3,))
    np.testing.assert_array_equal(sample(denoise, PredictorCorrector(Ancestral(), 0.16, 0), grid, keys, (3,)), plain)


def test_corrections_make_good_what_the_predictor_misses():
    grid, keys = levels(SCHEDULE, 10, "karras"), image_keys(0, jnp.arange(4))
    # The state before the last step, where corrections end, is to have the variance of its level.
    grid = jax.tree.map(lambda table: table[:-1], grid)
    last = float(grid.alpha[-1] ** 2 * VARIANCE + grid.sigma[-1] ** 2)
    plain, corrected = (
        float(jax.jit(lambda s=s: sample(denoise, s, grid, keys, (3000,)))().var()) / last
        for s in (DDIM(), PredictorCorrector(DDIM(), 0.16, 10))
    )
    assert abs(corrected - 1) < abs(plain - 1) / 2


def test_settings_are_checked():
    with pytest.raises(InputError, match="snr=-0.1 must be at least 0"):
        PredictorCorrector(DDIM(), -0.1).init(jnp.zeros((1, 2)), 3)
    with pytest.raises(InputError, match="num_corrections=-1 must be at least 0"):
        PredictorCorrector(DDIM(), 0.1, -1).init(jnp.zeros((1, 2)), 3)
