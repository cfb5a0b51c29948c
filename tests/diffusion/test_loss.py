"""The eps loss, its weights, and the ELBO terms that it comes from."""

import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import eps_loss, linear, prior_kl, q_sample, transition_kl, weighting, x_0_from_eps
from marble.diffusion.likelihood import gaussian_kl
from marble.diffusion.process import Gaussian
from marble.typing import Prediction


def images(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_l_simple_is_the_mean_square_of_the_noise_error(x64):
    schedule, x_0, noise = linear(), images(0, 2, 4, 4, 1), images(1, 2, 4, 4, 1)
    t = jnp.array([3, 900])
    seen = []
    losses = eps_loss(schedule, lambda *inputs: seen.append(inputs) or 0.5 * noise, x_0=x_0, t=t, noise=noise)
    np.testing.assert_allclose(losses, 0.25 * (noise**2).mean((1, 2, 3)), rtol=1e-12)
    ((x_t, given_t, context),) = seen
    np.testing.assert_array_equal(x_t, q_sample(schedule, x_0, t, noise))
    assert (given_t == t).all() and context is None


def test_elbo_weights_are_the_reference_ones():
    weights = weighting.elbo(linear(), "fixed_large")
    np.testing.assert_allclose(weights[[1, 2, 999]], [0.27269208, 0.19440198, 0.0102044935], rtol=1e-7)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_elbo_weighted_loss_is_the_divergence_of_the_transitions(variance_type, x64):
    # Eq. 12: but for what does not depend on the model, L_{t-1} is the weighted eps error.
    schedule, x_0, noise, eps = linear(), images(0, 3, 5), images(1, 3, 5), images(2, 3, 5)
    t = jnp.array([1, 400, 999])
    x_t = q_sample(schedule, x_0, t, noise)

    def divergence(eps):
        prediction = Prediction(x_0_from_eps(x_t=x_t, eps=eps, level=schedule.level(t)), eps)
        return transition_kl(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type=variance_type)

    weights = weighting.elbo(schedule, variance_type)
    losses = eps_loss(schedule, lambda *_: eps, x_0=x_0, t=t, noise=noise, weights=weights)
    np.testing.assert_allclose(divergence(eps) - divergence(noise), 5 * losses, rtol=1e-7)
    if variance_type == "fixed_small":
        np.testing.assert_allclose(divergence(noise), 0, atol=1e-12)  # then both have the posterior's variance


def test_gaussian_kl_by_quadrature(x64):
    p, q = Gaussian(jnp.asarray(0.3), jnp.asarray(0.5)), Gaussian(jnp.asarray(-0.2), jnp.asarray(1.7))
    x = np.linspace(-15, 15, 300_001)
    log = lambda g: -0.5 * (x - float(g.mean)) ** 2 / float(g.variance) - 0.5 * np.log(2 * np.pi * float(g.variance))  # noqa: E731
    integral = np.trapezoid(np.exp(log(p)) * (log(p) - log(q)), x)
    np.testing.assert_allclose(gaussian_kl(p, q), integral, rtol=1e-9)
    assert gaussian_kl(p, p) == 0


def test_gaussian_kl_of_close_variances_does_not_cancel():
    # To second order KL(N(0, v (1 + d)), N(0, v)) = d^2 / 4: in float32 the textbook form gives 0 for d = 1e-4.
    p, q = (Gaussian(jnp.zeros(()), jnp.float32(v)) for v in (1 + 2**-13, 1))
    np.testing.assert_allclose(gaussian_kl(p, q), 2.0**-28, rtol=1e-3)


def test_prior_kl_is_the_figure_of_the_formula(x64):
    # E[x^2] = 0.25, 0.3, 1: 7.28e-6, 8.73e-6, 2.91e-5 bits a dimension.
    for second_moment, bits in ((0.25, 7.28e-6), (0.30, 8.73e-6), (1.0, 2.91e-5)):
        x_0 = jnp.full((1, 4, 4, 1), np.sqrt(second_moment))
        np.testing.assert_allclose(prior_kl(linear(), x_0) / 16 / np.log(2), bits, rtol=1e-3)


@pytest.mark.parametrize(("variance_type", "nats"), [("fixed_small", 4.368516351), ("fixed_large", 3.913260171)])
def test_the_transitions_of_gaussian_data_with_the_optimal_model(variance_type, nats, x64):
    # x_0 ~ N(0, 1/4): the optimal eps is linear in x_t, so each expected L_{t-1} follows from two noise values
    # (+-1) for x_0 and noise: the terms are quadratic, and +-1 has a Gaussian's mean and variance.
    schedule, t = linear(), jnp.arange(1, 1000)
    signs = jnp.array([(x, n) for x in (-0.5, 0.5) for n in (-1.0, 1.0)])
    total = 0.0
    for x, n in np.asarray(signs):
        x_0, noise = jnp.full((999, 1), x), jnp.full((999, 1), n)
        x_t = q_sample(schedule, x_0, t, noise)
        level = schedule.level(t).like(x_t)
        eps = level.sigma / (level.alpha**2 / 4 + level.sigma**2) * x_t
        prediction = Prediction(x_0_from_eps(x_t=x_t, eps=eps, level=schedule.level(t)), eps)
        total += transition_kl(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type=variance_type).sum() / 4
    np.testing.assert_allclose(total, nats, rtol=1e-9)


def test_the_reference_bound_without_random_numbers(x64):
    # A fixed image and noise, a model that predicts 0.9 noise: terms t >= 1 in bits a dimension, from the float64
    # reference formulas of improved-diffusion.
    schedule = linear()
    x_0 = jnp.asarray(np.round(255 * np.arange(192) / 191) / 127.5 - 1).reshape(1, 192)
    noise = jnp.asarray(np.where(np.arange(192) % 2, -1.0, 1.0)).reshape(1, 192)

    def bits(t, variance_type):
        t = jnp.atleast_1d(jnp.asarray(t))
        x, n = jnp.repeat(x_0, len(t), 0), jnp.repeat(noise, len(t), 0)
        x_t = q_sample(schedule, x, t, n)
        prediction = Prediction(x_0_from_eps(x_t=x_t, eps=0.9 * n, level=schedule.level(t)), 0.9 * n)
        found = transition_kl(schedule, prediction, x_0=x, x_t=x_t, t=t, variance_type=variance_type)
        return np.asarray(found) / 192 / np.log(2)

    large, small = (bits(np.arange(1, 1000), name) for name in ("fixed_large", "fixed_small"))
    np.testing.assert_allclose(large[[0, 9]], [0.17905892, 8.34629e-3], rtol=2e-6)
    np.testing.assert_allclose([large[99], large[998]], [2.6112494e-4, 1.47219747e-4], rtol=2e-5)
    np.testing.assert_allclose(large.sum(), 0.62146987, rtol=1e-8)
    np.testing.assert_allclose(small[[0, 9]], [8.65148e-3, 1.13940e-3], rtol=1e-5)
    np.testing.assert_allclose(small.sum(), 0.14672919632, rtol=1e-9)
    np.testing.assert_allclose(prior_kl(schedule, x_0) / 192 / np.log(2), 9.819619e-6, rtol=1e-6)


def test_l_t_by_the_snr_identity(x64):
    # Luo 2022, eq. 108: with the posterior's variance, L_{t-1} = (SNR_{t-1} - SNR_t) / 2 * the error in x_0.
    schedule, t = linear(), jnp.array([1, 50, 999])
    x_0, x_t, predicted = images(0, 3, 6), images(1, 3, 6), images(2, 3, 6)
    snr = np.exp(2 * np.log(schedule.alpha / schedule.sigma))
    expected = 0.5 * (snr[np.array(t) - 1] - snr[np.array(t)]) * ((x_0 - predicted) ** 2).sum(1)
    found = transition_kl(schedule, Prediction(predicted, x_t), x_0=x_0, x_t=x_t, t=t)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
