"""EfficientNet-Lite0: a classifier of 4,652,008 parameters, small enough to be at hand wherever images are judged.

(Tan and Le 2019, arXiv:1905.11946; the Lite networks, 2020, are without squeeze-and-excitation, and clip at 6.)
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.models.batch_norm import FrozenBatchNorm
from marble.models.layers import dense, kernel_init
from marble.typing import Array

SIDE = 224
"""Pixels a side of what the network was trained on."""


class Stage(NamedTuple):
    """Blocks of one width, the first of which may halve the sides."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    features: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetStates(NamedTuple):
    """What is read off an image, float32."""

    features: Array
    """[b 1280] the mean over the places before the last layer."""
    logits: Array
    """[b 1000] of ImageNet's classes in their usual order."""
    maps: tuple[Array, ...]
    """[b h/f w/f c] the last layer of each size, f = 2, 4, 8, ...: what a perceptual loss compares."""


class EfficientNetLite(nn.Module):
    """images [b h w 3], (pixel - 127) / 128 of pixels 0..255 -> ``EfficientNetStates``; trained at h = w = 224.

    An InputError, at trace time, for other shapes.
    """

    stages: tuple[Stage, ...] = LITE0
    stem: int = 32
    head: int = 1280
    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: Array) -> EfficientNetStates:
        if images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"images of shape {list(images.shape)} must be [b h w 3]: make grey ones RGB")
        x, maps = _unit(self.stem, 3, 2, "stem", images), []
        for i, (kernel, stride, expansion, features) in enumerate(blocks_of(self.stages)):
            maps += [x] if stride > 1 else []
            x = InvertedResidual(features, kernel, stride, expansion, name=f"block_{i}")(x)
        features = _unit(self.head, 1, 1, "head", x).mean(axis=(1, 2))
        return EfficientNetStates(features, dense(self.num_classes, name="classifier")(features), (*maps, x))


class InvertedResidual(nn.Module):
    """[b h w c] -> [b h/stride w/stride features]: wider, a depthwise convolution, and narrower again without a relu.

    (Sandler et al. 2018.) x is added where its shape is kept. Padding is TensorFlow's, more of it right and below.
    """

    features: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = x if self.expansion == 1 else _unit(self.expansion * x.shape[-1], 1, 1, "expand", x)
        h = DepthwiseConv(self.kernel, self.stride, name="depthwise_conv")(h)
        h = _clipped(FrozenBatchNorm(1e-3, name="depthwise_norm")(h))
        h = _conv(self.features, 1, 1, "project_conv", h)
        h = FrozenBatchNorm(1e-3, name="project_norm")(h)
        return x + h if h.shape == x.shape else h


class DepthwiseConv(nn.Module):
    """[b h w c] -> [b h/stride w/stride c]: each channel with its own kernel, ``kernel`` places a side."""

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", kernel_init, (self.kernel, self.kernel, 1, x.shape[-1]), jnp.float32)
        ways = {"cpu": convolve_by_tap, "default": convolve_by_group}
        # XLA's grouped convolutions are 2-15 times slower than the other form on the CPU, where alone it was measured.
        return jax.lax.platform_dependent(x, kernel, **{n: partial(way, stride=self.stride) for n, way in ways.items()})


def convolve_by_group(x: Array, kernel: Array, *, stride: int) -> Array:
    """The depthwise convolution of [b h w c] by [k k 1 c], padded as TensorFlow does."""
    options = dict(feature_group_count=x.shape[-1], dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **options)


def convolve_by_tap(x: Array, kernel: Array, *, stride: int) -> Array:
    """The same as a sum of images moved by one tap of the kernel each, which XLA makes one loop of."""
    _, h, w, _ = x.shape
    size = kernel.shape[0]
    pads = jax.lax.padtype_to_pads((h, w), (size, size), (stride, stride), "SAME")
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    last_row, last_column = (-(-side // stride) * stride - stride for side in (h, w))
    return sum(
        padded[:, i : i + last_row + 1 : stride, j : j + last_column + 1 : stride] * kernel[i, j, 0][None, None, None]
        for i in range(size)
        for j in range(size)
    )


def blocks_of(stages: tuple[Stage, ...]) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, expansion, features) of each block in their order."""
    return [
        (stage.kernel, stage.stride if i == 0 else 1, stage.expansion, stage.features)
        for stage in stages
        for i in range(stage.repeats)
    ]


def _unit(features: int, kernel: int, stride: int, name: str, x: Array) -> Array:
    """A convolution, its norm, and the clip, in the module whose method asks for them."""
    x = _conv(features, kernel, stride, f"{name}_conv", x)
    return _clipped(FrozenBatchNorm(1e-3, name=f"{name}_norm")(x))


def _conv(features: int, kernel: int, stride: int, name: str, x: Array) -> Array:
    options = dict(use_bias=False, kernel_init=kernel_init, name=name)
    return nn.Conv(features, (kernel, kernel), (stride, stride), "SAME", **options)(x)


def _clipped(x: Array) -> Array:
    return jnp.clip(x, 0, 6)
