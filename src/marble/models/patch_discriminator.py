"""A discriminator that judges patches: one logit for each place of an image (Isola et al. 2017, PatchGAN).

As in latent diffusion (Rombach et al. 2022), which took pix2pix's; the norms here are of groups and keep no running
statistics, so that an image's logits don't depend on its batch.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.layers import GroupNorm, wide
from marble.typing import Array

LEAST_SIDE = 4
"""Places that the last convolutions, 4x4 with a padding of 1, need: fewer leave no logit."""
init = nn.initializers.normal(0.02)


class PatchDiscriminator(nn.Module):
    """images [b h w c] in [-1, 1] -> logits [b h' w'] float32, high where a patch looks real.

    4x4 convolutions, ``num_layers`` of which halve the sides, from ``channels`` doubling up to 8 times that. A logit
    sees 70x70 pixels with 3 layers. InputError, at trace time, for images that leave no place.
    """

    channels: int = 64
    num_layers: int = 3
    num_groups: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        side = min(images.shape[1:3])
        if side >> self.num_layers < LEAST_SIDE:
            raise InputError(
                f"images of {images.shape[1]}x{images.shape[2]} are too small for a discriminator of "
                f"{self.num_layers} layers: it takes sides of {LEAST_SIDE << self.num_layers} or more"
            )
        h = nn.leaky_relu(self._conv(images, self.channels, stride=2, name="conv_0"), 0.2)
        for i in range(1, self.num_layers + 1):
            stride = 2 if i < self.num_layers else 1
            h = self._conv(h, self.channels * min(2**i, 8), stride=stride, use_bias=False, name=f"conv_{i}")
            h = nn.leaky_relu(GroupNorm(self.num_groups, dtype=self.dtype, name=f"norm_{i}")(h), 0.2)
        logits = self._conv(h, 1, stride=1, name="conv_out")
        return logits[..., 0].astype(wide(self.dtype))

    def _conv(self, x: Array, features: int, *, stride: int, name: str, use_bias: bool = True) -> Array:
        options = dict(use_bias=use_bias, kernel_init=init, dtype=self.dtype, name=name)
        return nn.Conv(features, (4, 4), (stride, stride), padding=1, **options)(x)
