"""DINOv2: a vision transformer that was taught by itself, whose class token tells images apart as people do.

(Oquab et al. 2023, arXiv:2304.07193; Stein et al. 2023, arXiv:2306.04675, measure distances on it.) The networks of 14
pixels a patch: S (width 384, 12 layers, 6 heads), B (768, 12, 12, the defaults) and L (1024, 24, 16).
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.attention import MultiHeadAttention
from marble.models.interpolation import cubic_axis
from marble.models.layers import kernel_init, layer_norm
from marble.models.transformer import Perceptron
from marble.typing import Array

OFFSET = 0.1
"""``position_offset`` of the networks as their authors load them, and so of the distances in papers."""


class DinoV2States(NamedTuple):
    """What is read off an image, float32."""

    last: Array
    """[b 1+n w] of the class token and the n patches, after the final LayerNorm."""
    features: Array
    """[b w] of the class token."""


class DinoV2(nn.Module):
    """images [b h w 3], less ImageNet's mean and over its deviation, sides multiples of patch_size -> ``DinoV2States``.

    Positions were learned for image_size and are interpolated for other sizes: bicubic, without antialiasing. The
    authors' code tells the interpolation that it makes a grid of ``position_offset`` more places a side than it makes;
    transformers leaves that out, which is 0. An InputError, at trace time, for other shapes, or heads that don't
    divide the width.
    """

    image_size: int = 518
    patch_size: int = 14
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int | None = None
    epsilon: float = 1e-6
    position_offset: float = 0.0

    @nn.compact
    def __call__(self, images: Array) -> DinoV2States:
        _check(images, self.patch_size)
        x = self._embed(images)
        for i in range(self.num_layers):
            x = ScaledBlock(self.num_heads, self.hidden or 4 * self.width, self.epsilon, name=f"block_{i}")(x)
        last = layer_norm(self.epsilon, name="norm_out")(x)
        return DinoV2States(last, last[:, 0])

    def _embed(self, images: Array) -> Array:
        """The class token and a token a patch, with their places: [b 1+n w]."""
        patch, init = (self.patch_size, self.patch_size), nn.initializers.normal(0.02)
        patches = nn.Conv(self.width, patch, patch, "VALID", kernel_init=kernel_init, name="patches")(images)
        b, h, w, _ = patches.shape
        side = self.image_size // self.patch_size
        class_token = self.param("class_token", init, (self.width,), jnp.float32)
        places = self.param("positions", init, (1 + side * side, self.width), jnp.float32)
        first = jnp.broadcast_to(class_token + places[0], (b, 1, self.width))
        grid = self._interpolated(places[1:].reshape(side, side, self.width), h, w)
        return jnp.concatenate([first, (patches + grid[None]).reshape(b, h * w, self.width)], axis=1)

    def _interpolated(self, places: Array, h: int, w: int) -> Array:
        """[side side c] -> [h w c]."""
        side = len(places)
        if (h, w) == (side, side):
            return places
        down, across = (cubic_axis(side, n, scale=side / (n + self.position_offset)) for n in (h, w))
        return jnp.einsum("hi,wj,ijc->hwc", *(jnp.asarray(m, places.dtype) for m in (down, across)), places)


class ScaledBlock(nn.Module):
    """Self-attention, then a perceptron, each of a LayerNorm and times a scale a channel, added to x [b n c].

    (LayerScale: Touvron et al. 2021, arXiv:2103.17239.)
    """

    num_heads: int
    features: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale_0, scale_1 = (
            self.param(name, nn.initializers.ones, (x.shape[-1],), jnp.float32)[None, None]
            for name in ("scale_0", "scale_1")
        )
        h = layer_norm(self.epsilon, name="norm_0")(x)
        x = x + scale_0 * MultiHeadAttention(self.num_heads, name="attention")(h)
        h = layer_norm(self.epsilon, name="norm_1")(x)
        return x + scale_1 * Perceptron(self.features, "gelu", name="perceptron")(h)


def _check(images: Array, patch_size: int) -> None:
    fits = images.ndim == 4 and all(side and side % patch_size == 0 for side in images.shape[1:3])
    if not fits or images.shape[-1] != 3:
        raise InputError(
            f"images of shape {list(images.shape)} must be [b h w 3], h and w multiples of {patch_size}: resize them"
        )
