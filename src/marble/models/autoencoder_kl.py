"""The autoencoder of Stable Diffusion: images to latents of an eighth of their sides, and back (Rombach et al. 2022).

    encode   conv_in - level 0 - ... - level n - middle - norm, swish, conv_out - quant      -> mean, log-variance
    decode   post_quant - conv_in - middle - level n - ... - level 0 - norm, swish, conv_out -> image

Stable Diffusion's has the defaults here, and 83,653,863 parameters.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.attention import Implementation, SelfAttention
from marble.models.layers import GroupNorm, check_sizes, conv, dense, wide
from marble.models.resample import Upsample, downsample
from marble.models.resnet import ResBlock
from marble.typing import Array

LOG_VARIANCES = (-30.0, 20.0)
"""Where the encoder's log-variance is kept: beyond, its exponential is no number of float32's."""


class AutoencoderKL(nn.Module):
    """``encode`` images [b h w c] -> (mean, log_variance) [b h/f w/f latent_channels], and ``decode`` back.

    f is 2^(levels - 1). Images are float in [-1, 1]; what is decoded may leave that range. A call decodes the encoder's
    mean. Level i has ``channels * channel_mult[i]`` channels; ``use_quant_conv`` is whether a dense layer stands on
    each side of the latents. ``dtype`` is what is computed in, ``remat`` computes blocks again in the gradient. An
    InputError, at trace time, for sizes that don't fit.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    use_quant_conv: bool = True
    dropout: float = 0.0
    num_groups: int = 32
    dtype: Any = jnp.float32
    remat: bool = False
    attention_implementation: Implementation | None = None

    def setup(self) -> None:
        widths = tuple(self.channels * multiple for multiple in self.channel_mult)
        shared = (widths, self.dropout, self.num_groups, self.dtype, self.remat, self.attention_implementation)
        self.encoder = Encoder(2 * self.latent_channels, self.num_res_blocks, *shared)
        self.decoder = Decoder(self.image_channels, self.num_res_blocks + 1, *shared)
        if self.use_quant_conv:
            self.quant = dense(2 * self.latent_channels, dtype=self.dtype)
            self.post_quant = dense(self.latent_channels, dtype=self.dtype)

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        return self.decode(self.encode(images, train=train)[0], train=train)

    def encode(self, images: Array, *, train: bool = False) -> tuple[Array, Array]:
        """q(z | image) = N(mean, exp(log_variance)), each [b h/f w/f latent_channels] float32."""
        check_sizes(self, ("channels", "num_res_blocks", "num_groups", "latent_channels"))
        factor = 2 ** (len(self.channel_mult) - 1)
        if images.ndim != 4 or images.shape[1] % factor or images.shape[2] % factor:
            raise InputError(
                f"images of shape {list(images.shape)}: {len(self.channel_mult)} levels take [b h w c] "
                f"with h and w multiples of {factor}"
            )
        h = self.encoder(images, train=train)
        moments = (self.quant(h) if self.use_quant_conv else h).astype(wide(self.dtype))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCES)

    def decode(self, latents: Array, *, train: bool = False) -> Array:
        """The images [b h w image_channels] float32 of latents [b h/f w/f latent_channels]."""
        h = self.post_quant(latents) if self.use_quant_conv else latents
        return self.decoder(h, train=train).astype(wide(self.dtype))


class Half(nn.Module):
    """What the two halves have in common: their sizes, and how their blocks are made."""

    out_channels: int
    num_res_blocks: int
    widths: Sequence[int]
    dropout: float
    num_groups: int
    dtype: Any
    remat: bool
    attention_implementation: Implementation | None

    def block(self, name: str, h: Array, features: int, train: bool) -> Array:
        """A residual block."""
        made = nn.remat(ResBlock) if self.remat else ResBlock
        return made(features, self.dropout if train else 0.0, self.num_groups, self.dtype, name=name)(h)

    def middle(self, h: Array, train: bool) -> Array:
        """Two residual blocks, self-attention between them."""
        h = self.block("middle_block_0", h, self.widths[-1], train)
        options = dict(dtype=self.dtype, implementation=self.attention_implementation)
        h = SelfAttention(1, self.num_groups, **options, name="middle_attention")(h)
        return self.block("middle_block_1", h, self.widths[-1], train)

    def out(self, h: Array) -> Array:
        """The last convolution, of the normalised h."""
        h = nn.swish(GroupNorm(self.num_groups, dtype=self.dtype, name="norm_out")(h))
        return conv(self.out_channels, dtype=self.dtype, name="conv_out")(h)


class Encoder(Half):
    """Images [b h w c] -> [b h/f w/f out_channels]."""

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        h = conv(self.widths[0], dtype=self.dtype, name="conv_in")(images)
        for level, width in enumerate(self.widths):
            if level > 0:
                h = downsample(h.shape[-1], dtype=self.dtype, name=f"down_{level}_sample")(h)
            for i in range(self.num_res_blocks):
                h = self.block(f"down_{level}_block_{i}", h, width, train)
        return self.out(self.middle(h, train))


class Decoder(Half):
    """Latents [b h/f w/f c] -> [b h w out_channels]."""

    @nn.compact
    def __call__(self, latents: Array, *, train: bool) -> Array:
        h = conv(self.widths[-1], dtype=self.dtype, name="conv_in")(latents)
        h = self.middle(h, train)
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.num_res_blocks):
                h = self.block(f"up_{level}_block_{i}", h, width, train)
            if level > 0:
                h = Upsample(dtype=self.dtype, name=f"up_{level}_sample")(h)
        return self.out(h)
