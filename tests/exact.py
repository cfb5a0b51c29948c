"""Data whose every noised density, and so the best denoiser, is known."""

import jax
import jax.numpy as jnp
import numpy as np

from marble.typing import Prediction, coefficient_like


class Mixture:
    """A mixture of Gaussians in D dimensions: weights [m], means [m D], and one variance, 0 for points."""

    def __init__(self, weights, means, variance):
        self.weights, self.means, self.variance = np.asarray(weights), np.asarray(means), variance

    def log_prob(self, x_t, level):
        """log q(x_t) [b] of x_t [b D]."""
        return jax.scipy.special.logsumexp(self._log_joint(x_t, level), axis=-1)

    def denoise_fn(self, x_t, level, context=None):
        """E[x_0 | x_t] and the noise that it implies."""
        share = jax.nn.softmax(self._log_joint(x_t, level), axis=-1)  # [b m]
        alpha, sigma = (coefficient_like(c, x_t) for c in (level.alpha, level.sigma))
        total = alpha**2 * self.variance + sigma**2
        mean = share @ jnp.asarray(self.means, x_t.dtype)
        x_0 = (sigma**2 * mean + alpha * self.variance * x_t) / total
        return Prediction(x_0, sigma * (x_t - alpha * mean) / total)

    def _log_joint(self, x_t, level):
        alpha, sigma = (jnp.broadcast_to(coefficient_like(c, x_t), (len(x_t), 1)) for c in (level.alpha, level.sigma))
        total = alpha**2 * self.variance + sigma**2
        squares = ((x_t[:, None] - alpha[..., None] * jnp.asarray(self.means, x_t.dtype)[None]) ** 2).sum(-1)
        log_weights = jnp.log(jnp.asarray(self.weights, x_t.dtype))[None]
        return log_weights - 0.5 * (squares / total + x_t.shape[1] * jnp.log(2 * jnp.pi * total))


def gaussian(dimensions, variance):
    """N(0, variance I)."""
    return Mixture([1.0], np.zeros((1, dimensions)), variance)


def pixels(levels):
    """One pixel, each of its levels equally likely."""
    return Mixture(np.full(levels, 1 / levels), np.linspace(-1, 1, levels)[:, None], 0.0)
