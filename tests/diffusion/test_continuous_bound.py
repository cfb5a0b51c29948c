"""The bound on a curve of log-SNR, against closed forms and a distribution of pixels that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import gaussian, pixels

from marble.diffusion import continuous_bound_terms, cosine, from_curve, linear, q_sample, rectified_flow
from marble.diffusion.continuous_bound import categorical_log_prob
from marble.errors import InputError

# Quadratic in x_0 and the noise: the mean over these four is exact for x_0 ~ N(0, 1/4).
X_0, NOISE = np.array([0.5, 0.5, -0.5, -0.5])[:, None], np.array([1.0, -1.0, 1.0, -1.0])[:, None]


def line(high=8.0, low=-9.0):
    """log-SNR falling in a straight line."""
    return from_curve(lambda t: high + (low - high) * t)


def bend(high=8.0, low=-9.0):
    """The same ends, another way."""
    return from_curve(lambda t: high + (low - high) * t**2 * (1 + 0.2 * (1 - t)))


def gaussian_terms(schedule, num_steps, offset=None):
    """Averaged over the four."""
    terms = continuous_bound_terms(
        gaussian(1, 0.25).denoise_fn,
        schedule,
        x_0=jnp.asarray(X_0),
        noise=lambda k: jnp.asarray(NOISE),
        levels=256,
        num_steps=num_steps,
        offset=offset,
    )
    return jax.tree.map(lambda x: np.asarray(x).mean(-1), terms)


@pytest.mark.parametrize("schedule", [line(), bend(), cosine(-9.0, 8.0)], ids=["line", "bend", "cosine"])
def test_the_integral_of_gaussian_data_knows_only_the_ends(schedule, x64):
    # The best guess misses by Var(x_0 | x_t) = 1 / (4 + SNR): L_inf = log((4 + SNR_0) / (4 + SNR_1)) / 2.
    terms = gaussian_terms(schedule, 2000, offset=lambda k: 0.5)
    expected = 0.5 * np.log((4 + np.exp(8.0)) / (4 + np.exp(-9.0)))
    np.testing.assert_allclose(terms.by_step[1:].sum(), expected, rtol=5e-5)


def test_on_the_straight_path_too(x64):
    schedule = rectified_flow()
    high, low = (float(schedule.level(t).log_snr) for t in (0.0, 1.0))
    terms = gaussian_terms(schedule, 4000, offset=lambda k: 0.5)
    expected = 0.5 * np.log((4 + np.exp(high)) / (4 + np.exp(low)))
    np.testing.assert_allclose(terms.by_step[1:].sum(), expected, rtol=1e-3)


def test_the_sum_over_steps_is_equation_13(x64):
    terms = gaussian_terms(line(), 10)
    snr = np.exp(np.linspace(8, -9, 11))
    np.testing.assert_allclose(terms.by_step[1:], 0.5 * (snr[:-1] - snr[1:]) / (4 + snr[1:]), rtol=1e-9)
    np.testing.assert_allclose(terms.squared_error, 1 / (4 + snr), rtol=1e-9)


def test_more_steps_make_the_bound_tighter(x64):
    sums = [gaussian_terms(line(), n).by_step[1:].sum() for n in (10, 100, 1000)]
    limit = 0.5 * np.log((4 + np.exp(8.0)) / (4 + np.exp(-9.0)))
    assert sums[0] > sums[1] > sums[2] > limit
    np.testing.assert_allclose((sums[1] - limit) / (sums[2] - limit), 10, rtol=0.05)


def test_random_offsets_are_unbiased_one_an_image(x64):
    # Over offsets at the midpoints of 100 parts the mean of 20 parts is the midpoint rule of 2000.
    offsets = (jnp.arange(100) + 0.5) / 100
    terms = continuous_bound_terms(
        gaussian(1, 0.25).denoise_fn,
        line(),
        x_0=jnp.repeat(jnp.asarray(X_0), 100, 0),
        noise=lambda k: jnp.repeat(jnp.asarray(NOISE), 100, 0),
        levels=256,
        num_steps=20,
        offset=lambda k: jnp.tile(offsets, 4),
    )
    parts = terms.by_step[1:].sum(0).reshape(4, 100).mean(0)
    np.testing.assert_allclose(parts.mean(), gaussian_terms(line(), 2000, lambda k: 0.5).by_step[1:].sum(), rtol=1e-9)
    assert np.std(parts) > 1e-3


@pytest.mark.parametrize("schedule", [line(8.0, -12.0), rectified_flow()], ids=["line", "flow"])
def test_of_known_pixels_the_bound_is_their_entropy(schedule, x64):
    # With the exact denoiser and the exact decoder nothing is lost but what the prior is off.
    nodes = np.linspace(-6, 6, 241)
    weights = np.tile(np.exp(-0.5 * nodes**2), 5)
    x_0 = jnp.asarray(np.repeat(np.linspace(-1, 1, 5), 241)[:, None])
    noise = jnp.asarray(np.tile(nodes, 5)[:, None])
    terms = continuous_bound_terms(
        pixels(5).denoise_fn, schedule, x_0=x_0, noise=lambda k: noise, levels=5, num_steps=300, offset=lambda k: 0.5
    )
    np.testing.assert_allclose((weights * terms.total).sum() / weights.sum(), np.log(5), rtol=1e-3)


def test_steps_are_a_curve_too(x64):
    # The paper's schedule in its own steps is the sum with K = T - 1, and its integral is that of its ends.
    schedule = linear()
    snr = (schedule.alpha / schedule.sigma) ** 2
    terms = gaussian_terms(schedule, 999)
    np.testing.assert_allclose(terms.by_step[1:], 0.5 * (snr[:-1] - snr[1:]) / (4 + snr[1:]), rtol=1e-7)
    integral = gaussian_terms(schedule, 999, offset=lambda k: 0.5).by_step[1:].sum()
    np.testing.assert_allclose(integral, 0.5 * np.log((4 + snr[0]) / (4 + snr[-1])), rtol=1e-2)


@pytest.mark.parametrize("levels", [2, 17])
def test_the_decoder_is_bayes_rule(levels, x64):
    level, values = line().level(0.3), np.linspace(-1, 1, levels)
    x_t = jnp.full((levels, 1), 0.37)
    found = categorical_log_prob(jnp.asarray(values)[:, None], x_t, level, levels)
    weight = np.exp(-0.5 * ((0.37 - float(level.alpha) * values) / float(level.sigma)) ** 2)
    np.testing.assert_allclose(np.exp(found[:, 0]), weight / weight.sum(), rtol=1e-10)


def test_the_decoder_of_a_far_pixel_is_finite():
    x_0 = jnp.array([[-1.0], [1.0]])
    found = categorical_log_prob(x_0, q_sample(linear(), -x_0, 0, 0 * x_0), linear().level(0), 256)
    assert np.isfinite(found).all() and (found < -1e4).all()


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="num_steps=0"):
        gaussian_terms(line(), 0)
