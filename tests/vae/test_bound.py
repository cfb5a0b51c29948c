"""The bounds on a model whose likelihood is known: probabilistic PCA, which is a linear Gaussian autoencoder."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from marble import vae

W = np.array([[1.2, -0.3, 0.5, 0.0, 0.8], [0.1, 0.9, 0.2, -0.4, 0.06]])
W[1] -= (W[1] @ W[0]) / (W[0] @ W[0]) * W[0]  # orthogonal rows: the true posterior of z is a diagonal Gaussian
OFFSET, LOG_SCALE = np.array([0.2, -0.1, 0.0, 0.4, -0.3]), -0.7
X = np.random.default_rng(0).normal(size=(4, 5))
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=2)))[:, None].repeat(4, axis=1)  # [n b 2]
"""Noises over which the mean of a quadratic is its mean over N(0, I)."""


def log_p():
    """Tipping & Bishop 1999: x ~ N(offset, W^T W + scale² I)."""
    return stats.multivariate_normal(OFFSET, W.T @ W + np.exp(2 * LOG_SCALE) * np.eye(5)).logpdf(X)


def posterior():
    """q = p(z | x)."""
    precision = 1 + (W**2).sum(1) / np.exp(2 * LOG_SCALE)
    mean = (X - OFFSET) @ W.T / np.exp(2 * LOG_SCALE) / precision
    return vae.Encoding(jnp.asarray(mean), jnp.broadcast_to(-jnp.log(precision), (4, 2)))


def log_likelihood(z):
    mean = jnp.dot(z, W) + OFFSET.reshape((1,) * (z.ndim - 1) + (5,))
    x = jnp.broadcast_to(X, mean.shape)
    return vae.gaussian_log_density(x, mean, jnp.full(x.shape, LOG_SCALE)).sum(-1)


def wrong():
    truth = posterior()
    return vae.Encoding(truth.mean + jnp.array([[0.3, -0.5]]), truth.log_variance + jnp.array([[0.4, 0.6]]))


def bounds(encoding, noise):
    """(elbo, log_weight), [n b] each, of noise [n b 2]."""

    def one(noise):
        likelihood = log_likelihood(vae.decoder_input(encoding, noise))
        return vae.elbo(likelihood, encoding), vae.log_weight(likelihood, encoding, noise)

    return jax.vmap(one)(jnp.asarray(noise))


def test_the_elbo_is_the_likelihood_at_the_true_posterior(x64):
    elbo, weights = bounds(posterior(), SIGNS)
    np.testing.assert_allclose(elbo.mean(0), log_p(), rtol=1e-12)
    np.testing.assert_allclose(weights, np.broadcast_to(log_p(), (4, 4)), rtol=1e-12)  # p(x, z) / p(z | x) = p(x)


def test_the_elbo_falls_short_by_the_divergence_from_the_true_posterior(x64):
    truth, q = posterior(), wrong()
    difference = q.log_variance - truth.log_variance
    gap = (jnp.expm1(difference) - difference + (q.mean - truth.mean) ** 2 * jnp.exp(-truth.log_variance)).sum(-1) / 2
    elbo, weights = bounds(q, SIGNS)
    assert (np.asarray(gap) > 0.1).all()
    np.testing.assert_allclose(elbo.mean(0), log_p() - gap, rtol=1e-12)
    np.testing.assert_allclose(weights.mean(0), elbo.mean(0), rtol=1e-12)


def test_the_importance_weighted_bound_rises_to_the_likelihood(x64):
    noise = jax.random.normal(jax.random.key(0), (64 * 1000, 4, 2))
    weights = jax.jit(lambda q, noise: bounds(q, noise)[1])(wrong(), noise).reshape(64, 1000, 4)
    values = [vae.importance_weighted(weights[:k].reshape(k, -1)).reshape(-1, 4) for k in (1, 2, 8, 64)]
    for lower, higher in itertools.pairwise(values):
        rise = higher - lower
        assert (rise.mean(0) > 5 * rise.std(0) / np.sqrt(len(rise))).all()
    left, first = (log_p() - value.mean(0) for value in (values[-1], values[0]))
    assert (left > 0).all() and (left < 0.03 * first).all()


@pytest.mark.parametrize("mean, log_variance", [(0.0, 0.0), (1.3, -2.0), (-0.4, 1.1)])
def test_the_divergence_from_the_prior_is_its_integral(x64, mean, log_variance):
    z = np.linspace(-25, 25, 200_001)
    q, p = stats.norm(mean, np.exp(log_variance / 2)), stats.norm()
    expected = np.trapezoid(q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), z)
    found = vae.prior_kl(vae.Encoding(jnp.full((1, 3), mean), jnp.full((1, 3), log_variance)))
    np.testing.assert_allclose(found, [3 * expected], rtol=1e-9, atol=1e-12)


def test_a_posterior_next_to_the_prior_or_to_a_point_keeps_its_divergence():
    near = vae.prior_kl(vae.Encoding(jnp.zeros((1, 1)), jnp.full((1, 1), 1e-3)))
    np.testing.assert_allclose(near, 1e-6 / 4, rtol=0.2)
    point = vae.prior_kl(vae.Encoding(jnp.zeros((1, 1)), jnp.full((1, 1), -60.0)))
    np.testing.assert_allclose(point, (60 - 1) / 2, rtol=1e-6)
