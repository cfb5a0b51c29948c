"""The linear schedule against the figures of the DDPM paper and its reference code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import from_betas, linear
from marble.errors import InputError


def test_linear_has_the_reference_tables():
    # Ho et al. 2020, section 4: T = 1000, 1e-4 to 0.02; the products in float64.
    schedule = linear()
    assert schedule.num_train_timesteps == 1000
    np.testing.assert_allclose(schedule.betas[[0, -1]], [1e-4, 0.02], rtol=1e-15)
    expected = [0.9999, 0.07858724288, 4.035829765e-05]
    np.testing.assert_allclose(schedule.alphas_cumprod[[0, 499, 999]], expected, rtol=1e-9)
    np.testing.assert_allclose(schedule.sigma[-1] / schedule.alpha[-1], 157.407, rtol=1e-5)
    log_snr = 2 * np.log(schedule.alpha / schedule.sigma)
    np.testing.assert_allclose(log_snr[[0, -1]], [9.21024, -10.11767], atol=5e-6)


def test_tables_are_those_of_the_products():
    betas = np.random.default_rng(0).uniform(1e-6, 0.5, 40)
    schedule = from_betas(betas)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-13)
    np.testing.assert_allclose(schedule.alpha**2 + schedule.sigma**2, 1, rtol=1e-14)


def test_small_noise_does_not_cancel():
    # 1 - prod(1 - 1e-12) loses four digits; the table must not.
    schedule = from_betas(np.full(4, 1e-12))
    np.testing.assert_allclose(schedule.sigma**2, 1e-12 * np.arange(1, 5), rtol=1e-11)


def test_levels_and_the_clean_one_before_them():
    schedule = linear(10)
    t = jnp.array([0, 1, 9])
    level, before = schedule.level(t), schedule.previous_level(t)
    np.testing.assert_allclose(level.alpha, schedule.alpha[[0, 1, 9]].astype(np.float32))
    np.testing.assert_allclose(before.alpha, np.array([1, schedule.alpha[0], schedule.alpha[8]], np.float32))
    np.testing.assert_allclose(before.sigma, np.array([0, schedule.sigma[0], schedule.sigma[8]], np.float32))


def test_a_schedule_can_be_an_argument_of_a_jitted_function():
    schedule = linear(10)
    level = jax.jit(lambda schedule, t: schedule.level(t))(schedule, 3)
    np.testing.assert_allclose(level.sigma, schedule.sigma[3], rtol=1e-7)


@pytest.mark.parametrize("betas", [[], [0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]], [0.1, np.nan]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(InputError, match="betas"):
        from_betas(np.array(betas))
