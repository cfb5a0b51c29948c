"""Likelihoods of an image's levels against scipy, and against what makes them probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from marble import vae

EXACT = {"discretised_logistic": vae.DISCRETISED_LOGISTIC.log_prob, "gaussian": vae.GAUSSIAN.log_prob}
CASES = [(0.0, 0.0), (0.3, -2.0), (-0.97, -4.0), (1.5, -3.0), (0.1, -7.0), (-0.4, 3.0)]
"""(mean, log_scale)."""


def grid(levels):
    return 2 * np.arange(levels) / (levels - 1) - 1


def all_cases(levels, cases=CASES):
    """x, mean and log_scale [cases levels]."""
    mean, log_scale = (np.repeat(np.array(column)[:, None], levels, 1) for column in zip(*cases, strict=True))
    return np.broadcast_to(grid(levels), mean.shape), mean, log_scale


def broadcast(x, mean, log_scale):
    return jnp.asarray(x), jnp.full(len(x), mean), jnp.full(len(x), log_scale)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("log_prob", EXACT.values(), ids=EXACT)
def test_the_probabilities_of_all_levels_sum_to_1(x64, log_prob, levels):
    x, mean, log_scale = all_cases(levels)
    total = jax.jit(lambda *a: jnp.exp(log_prob(*a, levels)).sum(-1))(x, mean, log_scale)
    np.testing.assert_allclose(total, 1, rtol=1e-12)


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_the_logistic_is_scipy_s_also_far_from_its_mean(x64, dtype, rtol):
    levels, x = 256, grid(256)
    for mean, log_scale in CASES:
        law, half = stats.logistic(loc=mean, scale=np.exp(log_scale)), 1 / 255
        # The difference of two upper tails where x is above the mean, of two lower ones where it is below.
        near, far = np.abs(x - mean) - half, np.abs(x - mean) + half
        tail = lambda distance: law.logcdf(mean - distance)  # noqa: B023, E731
        expected = tail(near) + np.log(-np.expm1(tail(far) - tail(near)))
        expected[0], expected[-1] = law.logcdf(x[0] + half), law.logsf(x[-1] - half)
        found = vae.discretised_logistic_log_prob(*(a.astype(dtype) for a in broadcast(x, mean, log_scale)), levels)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_the_density_is_scipy_s(x64):
    x, mean, log_scale = all_cases(50)
    expected = stats.norm.logpdf(x, mean, np.exp(log_scale))
    np.testing.assert_allclose(vae.gaussian_log_density(x, mean, log_scale), expected, rtol=1e-10)


@pytest.mark.parametrize("levels", [17, 256])
def test_the_dequantised_gaussian_is_a_mean_over_the_bin_and_a_bound(x64, levels):
    x, mean, log_scale = all_cases(levels)
    found, exact = jax.jit(
        lambda *a: (vae.dequantised_gaussian_log_prob(*a, levels), EXACT["gaussian"](*a, levels)),
    )(x, mean, log_scale)
    nodes, weights = np.polynomial.legendre.leggauss(4)  # exact: the integrand is quadratic
    half = 1 / (levels - 1)
    densities = np.stack([stats.norm.logpdf(x + half * u, mean, np.exp(log_scale)) for u in nodes])
    np.testing.assert_allclose(found, np.tensordot(weights / 2, densities, 1) + np.log(2 * half), rtol=1e-9)
    assert (found <= exact + 1e-12).all()


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("log_prob", EXACT.values(), ids=EXACT)
def test_float32_values_and_slopes_are_finite_wherever_the_network_goes(log_prob, levels):
    cases = list(itertools.product((-30.0, -1.0, 0.0, 30.0), (-7.0, 0.0, 7.0)))
    both = jax.jit(jax.value_and_grad(lambda m, s, x: log_prob(x, m, s, levels).sum(), (0, 1)))
    x, mean, log_scale = (jnp.asarray(column, jnp.float32) for column in all_cases(levels, cases))
    value, slopes = both(mean, log_scale, x)
    assert all(np.isfinite(array).all() for array in (value, *slopes))
