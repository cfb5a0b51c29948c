"""The layers that every network here is built of, initialised as in the DDPM paper.

Ho et al. 2020 draw kernels from variance scaling (scale 1, fan average, uniform), start biases at 0, and start the
last layer of every residual branch at (almost) zero, so that a fresh network is a sum of identities.
Parameters are float32; ``dtype`` is the type that is computed in, and ``wide(dtype)`` where few digits would not do.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.typing import Array

kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def dense(
    features: int, *, zero: bool = False, use_bias: bool = True, dtype: Any = jnp.float32, name: str | None = None
) -> nn.Dense:
    """x @ kernel + bias over the last axis; ``zero`` starts the kernel at 0."""
    return nn.Dense(features, use_bias=use_bias, kernel_init=_init(zero), dtype=dtype, name=name)


def conv(
    features: int,
    *,
    stride: int = 1,
    pads_both_sides: bool = False,
    zero: bool = False,
    use_bias: bool = True,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A 3x3 convolution [b h w c] -> [b h/stride w/stride features]; ``zero`` starts the kernel at 0.

    A stride of 2 pads right and below alone, as TensorFlow's does, or with pads_both_sides all around, as PyTorch's.
    """
    padding = 1 if pads_both_sides else "SAME"
    options = dict(use_bias=use_bias, kernel_init=_init(zero), dtype=dtype, name=name)
    return nn.Conv(features, (3, 3), (stride, stride), padding, **options)


def layer_norm(epsilon: float = 1e-5, *, is_affine: bool = True, dtype: Any = jnp.float32, name: str | None = None):
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axis (Ba et al. 2016), ``wide`` inside.

    The variance is of the differences: a transformer's stream has channels whose mean is far above their deviation.
    """
    options = dict(use_scale=is_affine, use_bias=is_affine, use_fast_variance=False)
    return nn.LayerNorm(epsilon, dtype=dtype, name=name, **options)


def wide(dtype: Any) -> Any:
    """float32, or dtype where that has more digits."""
    return jnp.promote_types(dtype, jnp.float32)


def _init(zero: bool):
    return nn.initializers.zeros if zero else kernel_init


class GroupNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * scale + bias, mean and var over the pixels and channels of a group.

    (Wu and He 2018.) x [b ... c], the same shape out; ``wide`` inside. It is computed as ``x * slope + offset`` with
    one slope and one offset a channel of an image, from sums over the pixels: x is read twice and nothing of its
    size is kept, which makes it about three times as fast as the formula in the order it is written in.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        check_groups(channels, self.num_groups)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        pixels = x.reshape(x.shape[0], -1, channels).astype(wide(self.dtype))  # [b hw c]
        mean = self._over_group(pixels.mean(axis=1))
        var = jnp.maximum(self._over_group((pixels * pixels).mean(axis=1)) - mean * mean, 0)
        slope = jax.lax.rsqrt(var + self.epsilon) * scale[None]  # [b c]
        offset = bias[None] - mean * slope
        return (pixels * slope[:, None] + offset[:, None]).reshape(x.shape).astype(self.dtype)

    def _over_group(self, of_channels: Array) -> Array:
        """The mean over each group's channels, repeated for each of them: [b c] -> [b c]."""
        b, c = of_channels.shape
        of_groups = of_channels.reshape(b, self.num_groups, c // self.num_groups).mean(axis=-1)
        return jnp.repeat(of_groups, c // self.num_groups, axis=-1)


class Dropout(nn.Module):
    """x [b ... c] / (1 - rate) or 0, each number with probability rate (Srivastava et al. 2014); 0 draws nothing.

    It draws what ``nn.Dropout`` does, in float32 whatever jax's default is, from the ``dropout`` stream.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.rate == 0:
            return x
        kept = 1.0 - self.rate
        is_kept = jax.random.bernoulli(self.make_rng("dropout"), jnp.float32(kept), x.shape)
        return jnp.where(is_kept, x / kept, 0)


def check_groups(channels: int, num_groups: int) -> None:
    """InputError unless the channels can be split into that many equal groups."""
    if channels % num_groups:
        nearest = max(num_groups, round(channels / num_groups) * num_groups)
        divisor = max(n for n in range(1, num_groups + 1) if channels % n == 0)
        raise InputError(
            f"{channels} channels can't be split into num_groups {num_groups}: "
            f"take {nearest} channels, or num_groups {divisor}"
        )


def check_sizes(model: nn.Module, names: Sequence[str]) -> None:
    """InputError unless these attributes of a model are at least 1, its channel_mult above 0, and dropout in [0, 1)."""
    for name in names:
        if getattr(model, name) < 1:
            raise InputError(f"model.{name}={getattr(model, name)} must be at least 1")
    if not model.channel_mult or min(model.channel_mult) <= 0:
        raise InputError(f"model.channel_mult={model.channel_mult} must be numbers above 0, one a level")
    if not 0 <= model.dropout < 1:
        raise InputError(f"model.dropout={model.dropout} must be from 0 to below 1")
