"""Batch normalisation of a trained network: the running mean and variance are numbers like the others."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.typing import Array


class FrozenBatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias, a number a channel of each (Ioffe and Szegedy 2015); x [... c].

    mean and var are parameters: the networks here are read from files, and never see a batch to learn them from.
    """

    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        scale, bias, mean, var = (
            self.param(name, init, (x.shape[-1],), jnp.float32)
            for name, init in (("scale", ones), ("bias", zeros), ("mean", zeros), ("var", ones))
        )
        slope = scale * jax.lax.rsqrt(var + self.epsilon)
        axes = tuple(range(x.ndim - 1))
        return x * jnp.expand_dims(slope, axes) + jnp.expand_dims(bias - mean * slope, axes)
