"""Curves of log-SNR over t in [0, 1] that are trained with a model (Kingma et al. 2021, section 3.2 and appendix H).

    learned_linear      the two ends are parameters, and the curve between them is straight
    learned_monotone    the ends, and the shape of the curve between them: a network that can only rise

In continuous time the bound depends on the ends alone; the shape changes the variance of its estimate.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.typing import Array


class LearnedLinear(nn.Module):
    """t in [0, 1], a number or [b] -> log_snr_max + t (log_snr_min - log_snr_max), both learned; never rising.

    The ends start as Kingma et al. 2021 start theirs, and InputError unless log_snr_min is the lower.
    """

    log_snr_max: float = 13.3
    log_snr_min: float = -5.0

    @nn.compact
    def __call__(self, t: Array) -> Array:
        return _between(self, jnp.asarray(t))


class LearnedMonotone(nn.Module):
    """t in [0, 1], a number or [b] -> log-SNR, between two learned ends along a learned curve; never rising.

    features is the width of the curve's network. Its parameters are under ``shape``, apart from the ends.
    """

    log_snr_max: float = 13.3
    log_snr_min: float = -5.0
    features: int = 1024

    @nn.compact
    def __call__(self, t: Array) -> Array:
        if self.features < 1:
            raise InputError(f"diffusion.features={self.features} must be at least 1")
        rise = Monotone(self.features, name="shape")
        t = jnp.asarray(t)
        start, here, end = rise(jnp.zeros((), t.dtype)), rise(t), rise(jnp.ones((), t.dtype))
        return _between(self, (here - start) / (end - start))


class Monotone(nn.Module):
    """t + a sum of sigmoids, all with positive slopes: rises with t, a number or [b] (Kingma et al. 2021, app. H)."""

    features: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        # The slopes start so that the sigmoids' bends are spread over the interval, and their sum rises by about 1.
        slopes = self.param("slopes", nn.initializers.normal(0.5), (self.features,), jnp.float32)
        places = self.param("places", nn.initializers.uniform(1.0), (self.features,), jnp.float32)
        heights = self.param("heights", nn.initializers.zeros, (self.features,), jnp.float32)
        slopes, heights = 10 * jax.nn.softplus(slopes), jax.nn.softplus(heights) / self.features
        bend_at = lambda t: jax.nn.sigmoid(slopes * (t - places)) @ heights  # noqa: E731
        return t + jnp.vectorize(bend_at)(t)


def _between(module: LearnedLinear | LearnedMonotone, progress: Array) -> Array:
    """The log-SNR that far between the ends, which are parameters of the module."""
    high, low = module.log_snr_max, module.log_snr_min
    if not low < high:
        raise InputError(f"diffusion.log_snr_min={low} must be below log_snr_max={high}")
    start = module.param("log_snr_max", nn.initializers.constant(high), (), jnp.float32)
    fall = module.param("fall", nn.initializers.constant(high - low), (), jnp.float32)
    return start - jnp.abs(fall) * progress
