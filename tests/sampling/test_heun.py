"""Euler and Heun: their limits, and what churn adds."""

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest

from marble.diffusion import edm, linear
from marble.errors import InputError
from marble.sampling import DDIM, Euler, Heun, image_keys, levels, sample
from marble.typing import Level, Prediction

SCHEDULE = linear()
KEYS = image_keys(0, jnp.arange(4))


def images(sampler, grid):
    return jax.jit(lambda: sample(mixture.denoise, sampler, grid, KEYS, (3,)))()


def test_euler_without_churn_is_ddim_with_eta_0():
    grid = levels(SCHEDULE, 12)
    np.testing.assert_allclose(images(Euler(SCHEDULE), grid), images(DDIM(0.0), grid), atol=1e-6)
    assert not np.allclose(images(Euler(SCHEDULE, s_churn=5.0), grid), images(DDIM(0.0), grid), atol=1e-3)


def test_the_last_step_of_heun_is_eulers():
    grid = levels(SCHEDULE, 1)
    np.testing.assert_allclose(images(Heun(SCHEDULE), grid), images(Euler(SCHEDULE), grid), atol=1e-6)


@pytest.mark.parametrize("sampler, evaluations", [(Euler, 18), (Heun, 35)])
def test_evaluations_of_the_network(sampler, evaluations):
    # Karras et al. 2022: 18 steps of Heun are 35 evaluations. Grid: their 18 sigmas.
    counts = []

    def denoise_fn(x, level, context=None):
        jax.debug.callback(lambda: counts.append(1))
        return mixture.denoise(x, level)

    schedule = edm()
    grid = levels(schedule, 18, "karras", sigma_min=0.002, sigma_max=80.0)
    x = jax.jit(lambda: sample(denoise_fn, sampler(schedule), grid, KEYS, (3,)))()
    x.block_until_ready()
    jax.effects_barrier()
    assert len(counts) == evaluations


@pytest.mark.parametrize("sampler", [Euler, Heun])
@pytest.mark.parametrize(
    "settings", [{"s_churn": 0.0}, {"s_churn": 9.0, "s_min": 1e3}, {"s_churn": 9.0, "s_max": 1e-3}]
)
def test_without_churn_the_noise_is_not_looked_at(sampler, settings):
    grid, x = levels(SCHEDULE, 3), jnp.ones((4, 3))
    keys = jnp.stack([image_keys(seed, jnp.arange(4)) for seed in (1, 2, 3)])
    plain, churned = (
        mixture.walk(sampler(SCHEDULE, **settings), mixture.denoise, grid, x, k) for k in (keys, keys[::-1])
    )
    np.testing.assert_array_equal(plain, churned)


def test_churn_raises_the_noise_by_gamma_and_no_more():
    # With a model that sees no image, eps = x / sigma: the network is asked at the raised level.
    asked = []

    def denoise_fn(x, level, context=None):
        asked.append((level, x))
        return Prediction(jnp.zeros_like(x), x / level.like(x).sigma)

    level_t, level_s = (SCHEDULE.level(t) for t in (500, 400))
    keys = image_keys(0, jnp.arange(1))
    x = jnp.zeros((1, 40_000))
    for s_churn, gamma in ((1.0, 0.1), (40.0, 2**0.5 - 1)):
        Euler(SCHEDULE, s_churn=s_churn, s_noise=1.5).step(denoise_fn, level_t, level_s, x, jnp.int32(10), keys)
        raised, noised = asked[-1]
        rho, before = raised.sigma / raised.alpha, level_t.sigma / level_t.alpha
        assert float(rho / before) == pytest.approx(1 + gamma, rel=1e-4)
        expected = raised.alpha * 1.5 * np.sqrt(rho**2 - before**2)
        assert float(noised.std()) == pytest.approx(float(expected), rel=0.02)


def test_churn_keeps_the_distribution():
    # Gaussian data: raised and brought down again, the variance is what it was, to the order of the step.
    schedule, variance = SCHEDULE, 0.25

    def denoise_fn(x, level, context=None):
        level = level.like(x)
        total = level.alpha**2 * variance + level.sigma**2
        return Prediction(level.alpha * variance * x / total, level.sigma * x / total)

    grid = levels(schedule, 60, "karras", sigma_min=0.01)
    x = jax.jit(lambda: sample(denoise_fn, Heun(schedule, s_churn=10.0), grid, image_keys(0, jnp.arange(4)), (5000,)))()
    assert float(x.var()) == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("name", ["s_churn", "s_min", "s_noise"])
def test_settings_below_0_are_refused(name):
    with pytest.raises(InputError, match=f"{name}=-1.0 must be at least 0"):
        Heun(SCHEDULE, **{name: -1.0}).init(jnp.zeros((1, 2)), 3)


def test_a_start_without_any_image_is_stepped_from():
    start = Level(jnp.float32(999.0), jnp.float32(0.0), jnp.float32(1.0))
    x = jnp.ones((1, 3))
    for sampler in (Euler(SCHEDULE, s_churn=3.0), Heun(SCHEDULE, s_churn=3.0)):
        step = sampler.step(mixture.denoise, start, SCHEDULE.level(900), x, jnp.int32(5), image_keys(0, jnp.arange(1)))
        assert np.isfinite(step.x).all()
