"""The likelihood under the probability flow: of Gaussians and mixtures the density is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import Mixture, gaussian, pixels
from scipy.stats import multivariate_normal

from marble.diffusion import cosine, edm, linear, rectified_flow
from marble.diffusion.continuous_bound import categorical_log_prob
from marble.errors import InputError
from marble.sampling import ode_likelihood
from marble.sampling.ode_likelihood import (
    check_uniform,
    ends,
    exact_divergence,
    hutchinson,
    ode_log_prob,
    uniform_nll,
    variational_nll,
)
from marble.typing import Prediction

THREE = Mixture([0.2, 0.5, 0.3], [[-0.8, 0.1], [0.3, -0.4], [0.5, 0.9]], 0.04)
SCHEDULES = {"linear": linear(), "cosine": cosine(-20.0, 9.0), "flow": rectified_flow()}


def drawn(data, level, count, seed=0):
    """x_t [count D] from the data at a level."""
    rng = np.random.default_rng(seed)
    means = data.means[rng.choice(len(data.weights), p=data.weights, size=count)]
    x_0 = means + np.sqrt(data.variance) * rng.normal(size=means.shape)
    return jnp.asarray(float(level.alpha) * x_0 + float(level.sigma) * rng.normal(size=means.shape))


@pytest.mark.parametrize(
    ("data", "name"),
    [(gaussian(3, 0.25), "linear"), *((THREE, name) for name in SCHEDULES)],
    ids=["gaussian", *(f"mixture-{name}" for name in SCHEDULES)],
)
def test_the_density_of_known_data(data, name, x64):
    schedule = SCHEDULES[name]
    level, last = (schedule.level_at(log_snr) for log_snr in ends(schedule))
    x_t = drawn(data, level, 6)
    found = ode_log_prob(data.denoise_fn, schedule, x_t, divergence=exact_divergence, num_steps=200)
    # The prior N(0, I) is off by about alpha E[x_0] x at the noisiest level.
    np.testing.assert_allclose(found, data.log_prob(x_t, level), atol=float(last.alpha) + 1e-5)


def test_the_steps_are_of_order_4(x64):
    # On a schedule that ends where nothing of the data is left, the steps alone are off.
    data, schedule = gaussian(2, 0.25), SCHEDULES["cosine"]
    level = schedule.level_at(ends(schedule)[0])
    x_t = drawn(data, level, 4)
    steps = jax.jit(lambda n: ode_log_prob(data.denoise_fn, schedule, x_t, divergence=exact_divergence, num_steps=n))
    errors = [np.abs(steps(n) - data.log_prob(x_t, level)).max() for n in (40, 80)]
    slope = np.log2(errors[0] / errors[1])
    assert slope > 3.6 and errors[1] < 1e-5, (slope, errors)


def test_on_the_exploding_path(x64):
    schedule, data = edm(-1.2, 1.8), gaussian(2, 0.25)
    level = schedule.level_at(ends(schedule)[0])
    x_t = drawn(data, level, 4)
    found = ode_log_prob(data.denoise_fn, schedule, x_t, divergence=exact_divergence, num_steps=100)
    np.testing.assert_allclose(found, data.log_prob(x_t, level), atol=1e-3)


def test_float32_under_jit_with_steps_that_are_traced():
    x_t = drawn(THREE, linear().level(0), 5).astype(jnp.float32)
    traces = []

    @jax.jit
    def log_prob(x_t, num_steps):
        traces.append(1)
        return ode_log_prob(THREE.denoise_fn, linear(), x_t, divergence=exact_divergence, num_steps=num_steps)

    fine, coarse = log_prob(x_t, 100), log_prob(x_t, 50)
    np.testing.assert_allclose(fine, THREE.log_prob(x_t, linear().level(0)), atol=5e-3)
    np.testing.assert_allclose(coarse, fine, atol=5e-3)
    assert len(traces) == 1 and fine.dtype == jnp.float32


def curled(y):
    """A field with a full Jacobian, different at each image."""
    return jnp.stack([y[:, 0] * y[:, 1], jnp.sin(y[:, 0]) + y[:, 1] ** 3, y[:, 2] * y[:, 0] + y[:, 1]], 1)


def test_the_exact_trace(x64):
    y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    value, trace = exact_divergence(curled, y)
    np.testing.assert_allclose(value, curled(y), rtol=1e-12)
    np.testing.assert_allclose(trace, y[:, 1] + 3 * y[:, 1] ** 2 + y[:, 0], rtol=1e-12)


def test_hutchinson_s_mean_is_the_exact_trace(x64):
    # Over all signs the mean is not an estimate.
    y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))
    probes = jnp.broadcast_to(signs[:, None], (8, 4, 3))
    value, trace = hutchinson(probes)(curled, y)
    np.testing.assert_allclose(value, curled(y), rtol=1e-12)
    np.testing.assert_allclose(trace, exact_divergence(curled, y)[1], rtol=1e-12)
    one = hutchinson(probes[3:4])(curled, y)[1]
    assert np.abs(one - trace).max() > 0.1


def test_hutchinson_s_likelihood_is_unbiased(x64):
    # The divergence is linear in v v^T, so the mean over all signs is exact through the whole flow.
    x_t = drawn(THREE, linear().level(0), 3)
    exact = ode_log_prob(THREE.denoise_fn, linear(), x_t, divergence=exact_divergence, num_steps=30)
    signs = jnp.broadcast_to(jnp.asarray([[1.0, 1.0], [1.0, -1.0]])[:, None], (2, 3, 2))
    each = [ode_log_prob(THREE.denoise_fn, linear(), x_t, divergence=hutchinson(v[None]), num_steps=30) for v in signs]
    np.testing.assert_allclose(sum(each) / 2, exact, rtol=1e-9)
    assert np.abs(each[0] - each[1]).max() > 1e-2


def pushed(covariance, schedule):
    """(covariance at the least noisy level, log of what each direction is stretched by) of the exact flow from N(0, I).

    For Gaussian data the flow is linear: along each eigenvector the deviation is sqrt(alpha² variance + sigma²).
    """
    total = schedule.num_train_timesteps
    ends_of = [schedule.level(t) for t in ((0.0, 1.0) if total is None else (0, total - 1))]
    (a, s), (a_1, s_1) = ((float(level.alpha), float(level.sigma)) for level in ends_of)
    variances, vectors = np.linalg.eigh(covariance)
    stretch = (a**2 * variances + s**2) / (a_1**2 * variances + s_1**2) * (a_1**2 + s_1**2)
    of = lambda values: vectors @ np.diag(values) @ vectors.T  # noqa: E731
    return of(stretch), of(0.5 * np.log(stretch))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_density_is_that_of_the_exact_flow_from_noise(dtype):
    # The prior is N(0, I), which q(x_T) is not: what the flow makes of it is known all the same, and nothing but the
    # steps and the rounding is off.
    with jax.enable_x64(dtype is np.float64):
        data, schedule = gaussian(3, 0.25), linear()
        x_t = drawn(data, schedule.level(0), 50).astype(dtype)
        found = np.asarray(ode_log_prob(data.denoise_fn, schedule, x_t, divergence=exact_divergence))
        assert found.dtype == dtype
        x_t = np.asarray(x_t, np.float64)
    exact = multivariate_normal(cov=pushed(0.25 * np.eye(3), schedule)[0]).logpdf(x_t)
    bits = np.abs(found - exact) / 3 / np.log(2)
    assert bits.max() < (1e-6 if dtype is np.float64 else 1e-4), bits


def test_hutchinson_s_estimates_vary_as_they_should_about_the_exact_flow_s_density(x64):
    # Pixels that know of each other: the Jacobian isn't diagonal, and signs do not find its trace each time.
    covariance = np.array([[0.5, 0.3, -0.1, 0.0], [0.3, 0.4, 0.1, 0.1], [-0.1, 0.1, 0.3, 0.2], [0.0, 0.1, 0.2, 0.6]])
    schedule = linear()

    def denoise_fn(x_t, level, context=None):
        inverse = jnp.linalg.inv(level.alpha**2 * covariance + level.sigma**2 * jnp.eye(4))
        return Prediction(level.alpha * x_t @ inverse @ covariance, level.sigma * x_t @ inverse)

    count, x = 4000, np.array([0.3, -0.5, 0.1, 0.8])
    probes = np.random.default_rng(0).choice([-1.0, 1.0], size=(1, count, 4))
    found = np.asarray(
        ode_log_prob(denoise_fn, schedule, jnp.tile(x, (count, 1)), divergence=hutchinson(jnp.asarray(probes)))
    )
    density, log_stretch = pushed(covariance, schedule)
    # In the place of the trace each has v^T M v, which varies with the signs by the entries off the diagonal alone: its
    # variance is twice the sum of their squares.
    trace, estimates = np.trace(log_stretch), np.einsum("ki,ij,kj->k", probes[0], log_stretch, probes[0])
    np.testing.assert_allclose(found - multivariate_normal(cov=density).logpdf(x), trace - estimates, atol=1e-5)
    expected = np.sqrt(2 * ((log_stretch - np.diag(np.diag(log_stretch))) ** 2).sum())
    assert expected > 0.1
    assert found.std() == pytest.approx(expected, rel=0.05)
    standard_error = expected / np.sqrt(count)
    exact = multivariate_normal(cov=density).logpdf(x)
    by_trace = ode_log_prob(denoise_fn, schedule, jnp.asarray(x[None]), divergence=exact_divergence)[0]
    assert abs(by_trace - exact) / 4 / np.log(2) < 1e-6  # bits a dimension
    assert abs(found.mean() - by_trace) < 3 * standard_error


def test_variational_dequantisation_of_known_pixels_is_their_entropy(x64):
    # With the exact denoiser and decoder, Bayes' rule: whatever the noise, the three terms are -log p(x_0).
    data, schedule = pixels(17), linear()
    level, rng = schedule.level(0), np.random.default_rng(0)
    x_0 = jnp.asarray(rng.choice(data.means[:, 0], size=(8, 1)))
    noise = jnp.asarray(rng.normal(size=(8, 1)))
    x_t = level.alpha * x_0 + level.sigma * noise
    log_prob = ode_log_prob(data.denoise_fn, schedule, x_t, divergence=exact_divergence, num_steps=200)
    reconstruction = -categorical_log_prob(x_0, x_t, level, 17).sum(1)
    found = variational_nll(log_prob, noise=noise, level=level, reconstruction=reconstruction)
    np.testing.assert_allclose(found, np.log(17), atol=1e-3)


def test_uniform_dequantisation_of_a_flat_density(x64):
    # A density of 1/2 on [-1, 1] gives each of n bins of its middle 1 / (n - 1).
    level = linear().level(0)
    log_prob_of_x_t = jnp.log(jnp.full(3, 0.5**4)) - 4 * jnp.log(level.alpha)
    found = uniform_nll(log_prob_of_x_t, size=4, level=level, levels=256)
    np.testing.assert_allclose(found, 4 * np.log(255), rtol=1e-12)


def test_uniform_dequantisation_is_refused_where_it_falls_in_gaps():
    # Of a comb of Gaussians whose teeth are r deviations apart, a uniform x costs KL(uniform || comb) in vain:
    # 0.12 bits a dimension for r = 4, 7 for the digits'.
    check_uniform(256, linear().level(0))
    with pytest.raises(InputError, match="17 levels are 0.125 apart and the noise is 0.01"):
        check_uniform(17, linear().level(0))

    def cost(r):
        x, teeth = (np.arange(20_000) + 0.5) / 20_000, np.arange(-50, 51)
        comb = np.exp(-0.5 * ((x[:, None] - teeth) * r) ** 2).sum(1) * r / np.sqrt(2 * np.pi)
        return -np.log2(comb).mean()

    assert cost(2 / 255 / 0.01) < 1e-6 < 0.05 < cost(ode_likelihood.MOST_BIN_TO_NOISE) < 0.15
    assert 6.5 < cost(12.5) < 7.5


def test_a_schedule_that_ends_in_pure_noise_has_an_end(x64):
    from marble.diffusion import rescale_zero_terminal_snr

    high, low = ends(rescale_zero_terminal_snr(linear()))
    assert np.isfinite(high) and low == ode_likelihood.NOISIEST_LOG_SNR
