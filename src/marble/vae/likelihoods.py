"""p(x | z), value by value: what a decoder says of an image by a mean and a log_scale for each of its values.

An image has a finite number of levels, evenly spaced over [-1, 1]. Its probability is what a density has in the bin
around each level, half way to the neighbours, the first bin and the last being open-ended: so the probabilities of all
levels sum to 1. That makes the bits of a logistic decoder, a Gaussian one and a diffusion model comparable.

All functions take x, mean and log_scale of one shape and return nats of that shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.diffusion import discretised_gaussian_log_prob
from marble.typing import Array

LogProb = Callable[[Array, Array, Array, int], Array]
"""log_prob(x, mean, log_scale, levels)."""


def gaussian_log_density(x: Array, mean: Array, log_scale: Array) -> Array:
    """log N(x; mean, scale²) (Kingma & Welling 2014, appendix C.2)."""
    return -0.5 * (jnp.log(2 * jnp.pi) + jnp.square((x - mean) * jnp.exp(-log_scale))) - log_scale


def dequantised_gaussian_log_prob(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    """E_u[log N(x + u; mean, scale²)] + log w, u uniform over a bin of width w = 2 / (levels - 1).

    A lower bound of the bin's log-probability (Theis et al. 2016, section 3.1), by Jensen's inequality. The expectation
    over u is exact, (x - mean)² becoming (x - mean)² + w² / 12; so no scale is rewarded for being below the bin's,
    as the density alone would reward it without end.
    """
    width = 2 / (levels - 1)
    spread = jnp.square(width * jnp.exp(-log_scale)) / 12
    return gaussian_log_density(x, mean, log_scale) - 0.5 * spread + jnp.log(width)


def discretised_logistic_log_prob(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    """log(S(b) - S(a)), S the sigmoid, b and a = (x - mean +- 1 / (levels - 1)) / scale (Salimans et al. 2017, eq. 2).

    Written as S(b) S(-a) (1 - exp(a - b)), which is the same and cancels nowhere, in neither tail nor in bins that are
    narrow; the first level has S(b), the last S(-a).
    """
    half = jnp.exp(-log_scale) / (levels - 1)
    centre = (x - mean) * jnp.exp(-log_scale)
    below_upper, above_lower = jax.nn.log_sigmoid(centre + half), jax.nn.log_sigmoid(half - centre)
    edge = 1 - 1 / (levels - 1)
    inside = below_upper + above_lower + jnp.log(-jnp.expm1(-2 * half))
    return jnp.where(x < -edge, below_upper, jnp.where(x > edge, above_lower, inside))


def _exact_gaussian(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    return discretised_gaussian_log_prob(x, mean, jnp.exp(2 * log_scale), levels)


class Likelihood(NamedTuple):
    """A family of p(x | z): what is trained on, what is measured, and how an image is drawn."""

    objective: LogProb
    """At most the log-probability, and the same where that is good to train on."""
    log_prob: LogProb
    """The log-probability of the levels."""
    standard: Callable[..., Array]
    """standard(key, shape, dtype) draws the density of mean 0 and scale 1."""


DISCRETISED_LOGISTIC = Likelihood(discretised_logistic_log_prob, discretised_logistic_log_prob, jax.random.logistic)
GAUSSIAN = Likelihood(dequantised_gaussian_log_prob, _exact_gaussian, jax.random.normal)
