"""The decoder's probabilities against scipy in float64, and the DDPM code's figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import norm

from marble.diffusion.decoder import discretised_gaussian_log_prob, tanh_discretised_gaussian_log_prob
from marble.errors import InputError


def values(levels):
    return 2 * np.arange(levels) / (levels - 1) - 1


def by_scipy(x, mean, deviation, levels):
    """In the tail that the bin is in, where scipy's functions keep their digits."""
    h = 1 / (levels - 1)
    low, high = (x - mean - h) / deviation, (x - mean + h) / deviation
    low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
    inside = log_ndtr(high) + np.log(-np.expm1(log_ndtr(low) - log_ndtr(high)))
    return np.select(
        [x == -1, x == 1], [log_ndtr((x - mean + h) / deviation), norm.logsf(x, mean + h, deviation)], inside
    )


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("deviation", [1e-3, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("mean", [-1.3, 0.0, 0.62])
def test_probabilities_are_scipy_s(levels, deviation, mean, x64):
    x = values(levels)
    found = discretised_gaussian_log_prob(jnp.asarray(x), jnp.asarray(mean), jnp.asarray(deviation**2), levels)
    expected = by_scipy(x, mean, deviation, levels)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 + 1e-13 * levels * deviation)
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=1e-9)  # the edge bins are open


@pytest.mark.parametrize("deviation", [1e-3, 0.01, 0.3, 5.0, 1e3])
def test_float32_is_finite_and_right_in_both_tails(deviation):
    x = values(256)
    for mean in (-3.0, 0.1, 3.0):
        arguments = [jnp.float32(value) for value in (x, mean, deviation**2)]
        found, slope = jax.vmap(jax.value_and_grad(discretised_gaussian_log_prob, 1), (0, None, None, None))(
            *arguments, 256
        )
        with jax.enable_x64(True):
            exact = discretised_gaussian_log_prob(jnp.asarray(x), mean, deviation**2, 256)
        assert np.isfinite(found).all() and np.isfinite(slope).all()
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_very_narrow_bins_are_the_density_times_the_width():
    # 2^20 levels under a deviation of 1: in float32 the two CDFs are one number.
    x, levels = jnp.float32([0.0, 0.25, -0.7]), 2**20
    found = discretised_gaussian_log_prob(x, jnp.float32(0.5), jnp.float32(1.0), levels)
    np.testing.assert_allclose(found, norm.logpdf(np.asarray(x), 0.5) + np.log(2 / (levels - 1)), rtol=1e-6)


def test_a_bin_that_holds_nearly_all_has_nearly_no_bits(x64):
    x = jnp.asarray(values(17)[3:4])
    found = discretised_gaussian_log_prob(x, x, 0.01**2, 17)
    np.testing.assert_allclose(found, np.log1p(-2 * norm.sf(6.25)), rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "mean", "log_deviation", "nats"),
    [
        (0.0, 0.0, -5, -0.82248199),
        (1.0, 0.9, -3, -3.61946095),
        (-1.0, -0.9, -3, -3.61946095),
        (127 / 127.5 - 1, 0.0, -4, -1.79738258),
    ],
)
def test_the_tanh_variant_has_the_ddpm_code_s_figures(x, mean, log_deviation, nats, x64):
    found = tanh_discretised_gaussian_log_prob(jnp.asarray(x), mean, np.exp(2.0 * log_deviation), 256)
    np.testing.assert_allclose(found, nats, rtol=1e-7)  # printed from float32, but for the edges


def test_the_tanh_variant_s_phi_is_off_in_the_fourth_digit(x64):
    # Of two levels the lower one's bin is all below 0: its chance under N(-1, 1) is Phi(1).
    x, mean = jnp.asarray([-1.0]), jnp.asarray([-1.0])
    by_tanh, exact = (
        np.exp(log_prob(x, mean, jnp.asarray(1.0), 2))[0]
        for log_prob in (tanh_discretised_gaussian_log_prob, discretised_gaussian_log_prob)
    )
    assert by_tanh == pytest.approx(0.84119201, abs=3e-8)  # printed from float32
    assert exact == pytest.approx(0.84134475, abs=5e-9)


def test_the_tanh_variant_has_its_floor_where_the_exact_one_goes_on(x64):
    x = jnp.asarray(values(256)[100:101])
    np.testing.assert_allclose(tanh_discretised_gaussian_log_prob(x, 0.9, 1e-4, 256), np.log(1e-12))
    assert discretised_gaussian_log_prob(x, 0.9, 1e-4, 256) < -5000


def test_one_level_is_refused():
    with pytest.raises(InputError, match="levels=1"):
        discretised_gaussian_log_prob(jnp.zeros(1), 0.0, 1.0, 1)
