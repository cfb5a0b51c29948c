"""A convolutional variational autoencoder: image to a latent vector's mean and log-variance, and back to pixels.

    encoder   conv_in - level 0 - level 1 - ... - norm, swish, dense         halving between levels
    decoder   dense - ... - level 1 - level 0 - norm, swish, conv_out        doubling between levels

A level is ``num_res_blocks`` of the U-Net's residual blocks, without a time. Nothing but the latent vector goes from
one half to the other.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.layers import GroupNorm, check_sizes, conv, dense, wide
from marble.models.resample import Upsample, downsample
from marble.models.resnet import ResBlock
from marble.typing import Array

MIN_LOG_SCALE = -7.0
"""No scale of the decoder is below exp of this (Salimans et al. 2017 cut theirs at the same number)."""


class Encoder(nn.Module):
    """x [b h w c] -> mean and log-variance of the latent [b d], float32."""

    latent_size: int
    widths: Sequence[int]
    num_res_blocks: int
    num_groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        h = conv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        for level, width in enumerate(self.widths):
            if level > 0:
                h = downsample(h.shape[-1], dtype=self.dtype, name=f"down_{level}_sample")(h)
            for i in range(self.num_res_blocks):
                h = _block(self, width, train, f"down_{level}_block_{i}")(h)
        h = nn.swish(GroupNorm(self.num_groups, dtype=self.dtype, name="norm_out")(h))
        h = h.reshape(h.shape[0], -1)  # [b hwc]
        encoding = dense(2 * self.latent_size, dtype=self.dtype, name="dense_out")(h).astype(wide(self.dtype))
        mean, log_variance = jnp.split(encoding, 2, axis=-1)
        return mean, log_variance


class Decoder(nn.Module):
    """z [b d] -> mean and log-scale of every pixel [b h w c], float32."""

    image_shape: Sequence[int]
    widths: Sequence[int]
    num_res_blocks: int
    num_groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, z: Array, *, train: bool) -> tuple[Array, Array]:
        height, width, channels = self.image_shape
        factor = 2 ** (len(self.widths) - 1)
        small = (height // factor, width // factor, self.widths[-1])
        h = dense(math.prod(small), dtype=self.dtype, name="dense_in")(z).reshape(-1, *small)
        for level in reversed(range(len(self.widths))):
            for i in range(self.num_res_blocks):
                h = _block(self, self.widths[level], train, f"up_{level}_block_{i}")(h)
            if level > 0:
                h = Upsample(dtype=self.dtype, name=f"up_{level}_sample")(h)
        h = nn.swish(GroupNorm(self.num_groups, dtype=self.dtype, name="norm_out")(h))
        out = conv(2 * channels, zero=True, dtype=self.dtype, name="conv_out")(h).astype(wide(self.dtype))
        mean, log_scale = jnp.split(out, 2, axis=-1)
        return mean, MIN_LOG_SCALE + jax.nn.softplus(log_scale - MIN_LOG_SCALE)


def _block(half: Encoder | Decoder, features: int, train: bool, name: str) -> ResBlock:
    return ResBlock(features, half.dropout if train else 0.0, half.num_groups, half.dtype, name=name)


class VAE(nn.Module):
    """``encode`` x [b h w c] -> (mean, log_variance) [b d]; ``decode`` z [b d] -> (mean, log_scale) [b h w c].

    A call decodes the encoder's mean. Level i has ``channels * channel_mult[i]`` channels; ``dtype`` is what is
    computed in. ``train`` switches dropout on; then ``rngs={"dropout": key}`` is needed. An InputError, at trace time,
    for sizes that don't fit.
    """

    image_shape: Sequence[int]
    latent_size: int = 32
    channels: int = 32
    channel_mult: Sequence[int] = (1, 2)
    num_res_blocks: int = 1
    num_groups: int = 8
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self._check()
        widths = [self.channels * mult for mult in self.channel_mult]
        shared = dict(
            widths=widths,
            num_res_blocks=self.num_res_blocks,
            num_groups=self.num_groups,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        self.encoder = Encoder(latent_size=self.latent_size, **shared)
        self.decoder = Decoder(image_shape=self.image_shape, **shared)

    def encode(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Mean and log-variance of q(z | x)."""
        return self.encoder(x, train=train)

    def decode(self, z: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Mean and log-scale of p(x | z)."""
        return self.decoder(z, train=train)

    def __call__(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        return self.decode(self.encode(x, train=train)[0], train=train)

    def _check(self) -> None:
        check_sizes(self, ("latent_size", "channels", "num_res_blocks", "num_groups"))
        factor = 2 ** (len(self.channel_mult) - 1)
        if any(side % factor for side in self.image_shape[:2]):
            raise InputError(
                f"images of {list(self.image_shape)}: {len(self.channel_mult)} levels take heights and widths that are "
                f"multiples of {factor}; change model.channel_mult"
            )
