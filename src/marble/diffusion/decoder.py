"""The decoder p(x_0 | x_1): the chance of a pixel's value under a Gaussian (Ho et al. 2020, eq. 13).

Images have a finite number of levels, evenly spaced over [-1, 1]. A level's chance is what the Gaussian has in the bin
around it, half way to each neighbour; the first bin and the last are open-ended, so that the chances sum to 1:

    log p(x_0) = log(Phi((x_0 - mean + h) / s) - Phi((x_0 - mean - h) / s)),    h = 1 / (levels - 1), s² = variance

for which the DDPM reference has an approximation of its own: ``tanh_discretised_gaussian_log_prob``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.typing import Array

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(8)
REFERENCE_FLOOR = 1e-12
"""The least probability in the reference's decoder."""


def discretised_gaussian_log_prob(x_0: Array, mean: Array, variance: Array, levels: int) -> Array:
    """log p(x_0) of each pixel in nats, shaped like x_0 [b ...]: the Gaussian's share of the pixel's bin.

    mean and variance broadcast against x_0. Finite wherever the answer is in the range of numbers: in both tails, and
    for bins that are far narrower than the Gaussian. InputError for fewer than two levels.
    """
    centre, half = _standardised(x_0, mean, variance, levels)
    below, above = _edges(x_0, levels)
    open_share = jax.scipy.stats.norm.logcdf(jnp.where(below, centre + half, half - centre))
    return jnp.where(below | above, open_share, _log_share(centre, half))


def tanh_discretised_gaussian_log_prob(x_0: Array, mean: Array, variance: Array, levels: int) -> Array:
    """The same by the DDPM reference's formulas: Phi by a tanh, and no probability below 1e-12.

    Phi(1) is 0.84119 there and 0.84134 in truth. It is here for figures that were made with it.
    """
    centre, half = _standardised(x_0, mean, variance, levels)
    below, above = _edges(x_0, levels)
    upper, lower = _tanh_cdf(centre + half), _tanh_cdf(centre - half)
    share = jnp.where(below, upper, jnp.where(above, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(share, REFERENCE_FLOOR))


def _standardised(x_0: Array, mean: Array, variance: Array, levels: int) -> tuple[Array, Array]:
    """The bin's centre and half its width, in standard deviations from the mean."""
    if levels < 2:
        raise InputError(f"levels={levels} must be at least 2")
    deviation = jnp.sqrt(variance)
    return (x_0 - mean) / deviation, jnp.broadcast_to(1 / ((levels - 1) * deviation), jnp.shape(x_0))


def _edges(x_0: Array, levels: int) -> tuple[Array, Array]:
    """Whether a pixel has the lowest level, and whether the highest."""
    edge = 1 - 1 / (levels - 1)
    return x_0 < -edge, x_0 > edge


def _log_share(centre: Array, half: Array) -> Array:
    """log(Phi(centre + half) - Phi(centre - half))."""
    # The lower tail's Phi keeps its digits; the upper tail is its mirror image.
    centre = -jnp.abs(centre)
    is_narrow = half * jnp.maximum(-centre, 1) < 0.5
    upper, lower = (jax.scipy.stats.norm.logcdf(bound) for bound in (centre + half, centre - half))
    between = jnp.where(is_narrow, 1.0, upper - lower)  # in a narrow bin it could be 0
    wide = upper + jnp.log(-jnp.expm1(-between))
    return jnp.where(is_narrow, _log_share_of_narrow(centre, jnp.where(is_narrow, half, 0.1 / (1 - centre))), wide)


def _log_share_of_narrow(centre: Array, half: Array) -> Array:
    """The same where the two Phi would cancel: the density at the centre, and its mean over the bin by quadrature."""
    ratio = lambda shift: jnp.exp(-centre * shift - 0.5 * shift**2)  # noqa: E731, of the density to the centre's
    mean_ratio = 0.5 * sum(float(w) * ratio(float(node) * half) for node, w in zip(NODES, NODE_WEIGHTS, strict=True))
    return jax.scipy.stats.norm.logpdf(centre) + jnp.log(2 * half) + jnp.log(mean_ratio)


def _tanh_cdf(z: Array) -> Array:
    return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
