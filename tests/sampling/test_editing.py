"""Beginning at an image, and keeping a part of one, on Gaussian data: every conditional distribution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import eps_from_x_0, linear
from marble.sampling import Ancestral, FromImage, Inpainting, image_keys, levels, sample
from marble.typing import Level, Prediction

SCHEDULE = linear(50, beta_start=0.002, beta_end=0.4)
GRID = levels(SCHEDULE)
COVARIANCE = np.array([[0.25, 0.2], [0.2, 0.25]])
NUM = 4000
SAMPLER = Ancestral("fixed_large")


def denoise_fn(x_t, level, context=None):
    """E[x_0 | x_t] for x_0 ~ N(0, COVARIANCE), x_t [b 2]."""
    gain = level.alpha * COVARIANCE @ jnp.linalg.inv(level.alpha**2 * COVARIANCE + level.sigma**2 * jnp.eye(2))
    x_0 = x_t @ gain.T
    return Prediction(x_0, eps_from_x_0(x_t=x_t, x_0=x_0, level=level))


def draw(sampler, grid=GRID, num=NUM):
    run = jax.jit(lambda keys: sample(denoise_fn, sampler, grid, keys, (2,)))
    return np.asarray(run(image_keys(0, jnp.arange(num))))


def tail(start):
    """The levels from the start-th on."""
    return jax.tree.map(lambda table: table[start:], GRID)


X_0 = np.random.default_rng(0).multivariate_normal([0, 0], COVARIANCE, NUM).astype(np.float32)


def test_from_pure_noise_it_is_the_sampler_alone():
    start = Level(GRID.t[0], np.float32(0), np.float32(1))
    np.testing.assert_array_equal(draw(FromImage(SAMPLER, X_0[:50], start), num=50), draw(SAMPLER, num=50))


@pytest.mark.parametrize("start", [20, 30, 45])
def test_an_edited_image_is_of_the_data_and_like_the_original_as_x_t_tells(start):
    # Between x_0 and x_0' ~ p(x_0 | x_t) stands x_t alone: Cov(x_0', x_0) = Cov(E[x_0 | x_t]).
    grid = tail(start)
    first = jax.tree.map(lambda table: table[0], grid)
    edited = draw(FromImage(SAMPLER, X_0, first), grid)
    alpha, sigma = float(first.alpha), float(first.sigma)
    of_x_t = alpha**2 * COVARIANCE + sigma**2 * np.eye(2)
    expected = alpha**2 * COVARIANCE @ np.linalg.inv(of_x_t) @ COVARIANCE
    cross = edited.T @ X_0 / NUM
    np.testing.assert_allclose(cross, expected, atol=0.02)
    np.testing.assert_allclose(np.cov(edited.T), COVARIANCE, atol=0.03)


def inpainted(resamples, is_known=(True, False), x_0=(0.6, 9.0)):
    x_0 = jnp.broadcast_to(jnp.asarray(x_0, jnp.float32), (NUM, 2))
    return draw(Inpainting(SAMPLER, x_0, jnp.asarray([is_known]), jnp.int32(resamples)))


def test_a_hole_is_filled_by_the_conditional_distribution():
    # x_1 | x_0 ~ N(0.8 x_0, 0.25 - 0.04 / 0.25); what stood in the hole (9) has no part in it.
    mean, deviation = 0.8 * 0.6, np.sqrt(0.25 - 0.2**2 / 0.25)
    fitted, replaced = inpainted(20), inpainted(1)
    np.testing.assert_array_equal(fitted[:, 0], np.float32(0.6))
    np.testing.assert_allclose([fitted[:, 1].mean(), fitted[:, 1].std()], [mean, deviation], atol=0.05)
    assert abs(replaced[:, 1].mean() - mean) > 2 * abs(fitted[:, 1].mean() - mean)  # what the repetitions are for


def test_nothing_known_is_sampling_and_all_known_is_the_image():
    np.testing.assert_array_equal(inpainted(1, (False, False))[:50], draw(SAMPLER)[:50])
    np.testing.assert_array_equal(inpainted(2, (True, True)), np.broadcast_to(np.float32([0.6, 9]), (NUM, 2)))


def test_repeated_steps_keep_the_distribution():
    # With nothing known each repetition goes up to t and down again: still data.
    np.testing.assert_allclose(np.cov(inpainted(4, (False, False)).T), COVARIANCE, atol=0.03)
