"""The tiny autoencoder TAESD: a few convolutions that stand in for Stable Diffusion's autoencoder (O. Boer Bohan 2023).

Its latents are those of the other one times that one's scale: what diffuses, as it is. 1,222,532 parameters encode and
1,222,531 decode.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.layers import conv, wide
from marble.models.resample import Upsample
from marble.typing import Array


class TinyAutoencoder(nn.Module):
    """``encode`` images [b h w c] in [-1, 1] -> latents [b h/f w/f latent_channels], and ``decode`` back.

    f is 2^(levels - 1). ``num_blocks`` are the residual blocks of each level, from wide to narrow images. ``decode``
    reads latents through 3 tanh(z / 3). A call decodes what it encodes. InputError, at trace time, for sizes that don't
    fit.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 64
    num_blocks: Sequence[int] = (1, 3, 3, 3)
    decoder_num_blocks: Sequence[int] = (1, 3, 3, 3)
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = TinyEncoder(self.latent_channels, self.channels, self.num_blocks, self.dtype)
        self.decoder = TinyDecoder(self.image_channels, self.channels, self.decoder_num_blocks, self.dtype)

    def __call__(self, images: Array) -> Array:
        return self.decode(self.encode(images))

    def encode(self, images: Array) -> Array:
        """Latents [b h/f w/f latent_channels] float32."""
        factor = 2 ** (len(self.num_blocks) - 1)
        if images.ndim != 4 or images.shape[1] % factor or images.shape[2] % factor:
            raise InputError(
                f"images of shape {list(images.shape)}: {len(self.num_blocks)} levels take [b h w c] "
                f"with h and w multiples of {factor}"
            )
        return self.encoder((images + 1) / 2).astype(wide(self.dtype))

    def decode(self, latents: Array) -> Array:
        """Images [b h w image_channels] float32 in about [-1, 1]."""
        return 2 * self.decoder(3 * jnp.tanh(latents / 3)).astype(wide(self.dtype)) - 1


class TinyBlock(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))): [b h w c], the same shape out."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.relu(conv(x.shape[-1], dtype=self.dtype, name="conv_0")(x))
        h = nn.relu(conv(x.shape[-1], dtype=self.dtype, name="conv_1")(h))
        return nn.relu(x + conv(x.shape[-1], dtype=self.dtype, name="conv_2")(h))


class TinyEncoder(nn.Module):
    """Images [b h w c] in [0, 1] -> [b h/f w/f out_channels]."""

    out_channels: int
    channels: int
    num_blocks: Sequence[int]
    dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        halves = dict(stride=2, pads_both_sides=True, use_bias=False, dtype=self.dtype)
        for level, count in enumerate(self.num_blocks):
            options = halves | {"name": f"down_{level}_sample"} if level else dict(dtype=self.dtype, name="conv_in")
            h = conv(self.channels, **options)(h)
            for i in range(count):
                h = TinyBlock(self.dtype, name=f"down_{level}_block_{i}")(h)
        return conv(self.out_channels, dtype=self.dtype, name="conv_out")(h)


class TinyDecoder(nn.Module):
    """Latents [b h/f w/f c] -> [b h w out_channels] in about [0, 1]."""

    out_channels: int
    channels: int
    num_blocks: Sequence[int]
    dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        h = nn.relu(conv(self.channels, dtype=self.dtype, name="conv_in")(h))
        for level, count in reversed(list(enumerate(self.num_blocks))):
            for i in range(count):
                h = TinyBlock(self.dtype, name=f"up_{level}_block_{i}")(h)
            if level > 0:
                h = Upsample(use_bias=False, dtype=self.dtype, name=f"up_{level}_sample")(h)
        return conv(self.out_channels, dtype=self.dtype, name="conv_out")(h)
