"""The Inception-v3 of FID: the graph that Google published on 2015-12-05, on which scores have been measured since.

(Szegedy et al. 2015, arXiv:1512.00567; Heusel et al. 2017 for the distance.) It is not the network of the paper, nor
torchvision's: it tells 1008 classes, its average pools don't count the padding, and its last block has a maximum where
the others have an average. Layers have the names that PyTorch's copies of the weights have, in small letters.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.models.batch_norm import FrozenBatchNorm
from marble.models.layers import dense, kernel_init
from marble.typing import Array

SIDE = 299
"""Pixels a side of what the network was trained on."""
LEAST_SIDE = 75
"""Of fewer nothing is left after the last halving."""
SPATIAL_CHANNELS = 7
"""Those of mixed_6 that sFID reads (Nash et al. 2021): 17 * 17 * 7 = 2023 numbers of an image of 299 pixels."""


class InceptionStates(NamedTuple):
    """What is read off an image, float32."""

    features: Array
    """[b 2048] ``pool_3``, the mean over the places of the last block: FID's and KID's."""
    spatial: Array
    """[b h*w*7] the first channels of ``mixed_6/conv``: sFID's, 2023 of an image of 299 pixels."""
    logits: Array
    """[b 1008] without the last layer's bias, as the Inception score has been measured since the code of its paper."""
    biased_logits: Array
    """[b 1008] with it: what the network was trained to say."""


class Inception(nn.Module):
    """images [b h w 3], (pixel - 128) / 128 of pixels 0..255 -> ``InceptionStates``.

    Scores that compare are of h = w = 299. An InputError, at trace time, for a side of less than 75.
    """

    num_classes: int = 1008

    @nn.compact
    def __call__(self, images: Array) -> InceptionStates:
        _check(images)
        x = ConvUnit(32, (3, 3), stride=2, name="conv2d_1a_3x3")(images)
        x = ConvUnit(32, (3, 3), padding="VALID", name="conv2d_2a_3x3")(x)
        x = ConvUnit(64, (3, 3), name="conv2d_2b_3x3")(x)
        x = ConvUnit(80, (1, 1), name="conv2d_3b_1x1")(halved(x))
        x = ConvUnit(192, (3, 3), padding="VALID", name="conv2d_4a_3x3")(x)
        x = halved(x)  # 35 x 35, of 299
        for name, pooled in {"5b": 32, "5c": 64, "5d": 64}.items():
            x = MixedA(pooled, name=f"mixed_{name}")(x)
        x = MixedB(name="mixed_6a")(x)  # 17 x 17
        for name, width in {"6b": 128, "6c": 160, "6d": 160, "6e": 192}.items():
            x = MixedC(width, name=f"mixed_{name}")(x)
            if name == "6d":  # The graph counts the blocks from 0, which makes it mixed_6; its first branch is first
                spatial = x[..., :SPATIAL_CHANNELS]
        x = MixedD(name="mixed_7a")(x)  # 8 x 8
        x = MixedE("average", name="mixed_7b")(x)
        features = MixedE("max", name="mixed_7c")(x).mean(axis=(1, 2))
        logits = dense(self.num_classes, use_bias=False, name="fc")(features)
        bias = self.param("fc_bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        return InceptionStates(features, spatial.reshape(len(images), -1), logits, logits + bias[None])


class ConvUnit(nn.Module):
    """relu(norm(conv(x))), the convolution without a bias: [b h w c] -> [b h' w' features]; a stride pads nothing."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = self.padding if self.stride == 1 else "VALID"
        options = dict(use_bias=False, kernel_init=kernel_init, name="conv")
        x = nn.Conv(self.features, self.kernel, (self.stride, self.stride), padding, **options)(x)
        return jax.nn.relu(FrozenBatchNorm(1e-3, name="bn")(x))


class MixedA(nn.Module):
    """[b h w c] -> [b h w 224 + pooled]: branches of 1x1, 5x5 and twice 3x3, and an average's."""

    pooled: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = ConvUnit(64, (1, 1), name="branch1x1")(x)
        five = ConvUnit(48, (1, 1), name="branch5x5_1")(x)
        five = ConvUnit(64, (5, 5), name="branch5x5_2")(five)
        three = ConvUnit(64, (1, 1), name="branch3x3dbl_1")(x)
        three = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(three)
        three = ConvUnit(96, (3, 3), name="branch3x3dbl_3")(three)
        pooled = ConvUnit(self.pooled, (1, 1), name="branch_pool")(averaged(x))
        return jnp.concatenate([one, five, three, pooled], axis=-1)


class MixedB(nn.Module):
    """[b h w c] -> [b h/2 w/2 480 + c]: branches of stride 2."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = ConvUnit(384, (3, 3), stride=2, name="branch3x3")(x)
        three = ConvUnit(64, (1, 1), name="branch3x3dbl_1")(x)
        three = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(three)
        three = ConvUnit(96, (3, 3), stride=2, name="branch3x3dbl_3")(three)
        return jnp.concatenate([one, three, halved(x)], axis=-1)


class MixedC(nn.Module):
    """[b h w c] -> [b h w 768]: branches of 7x7 in two halves, ``width`` channels within; 1x7 is a row of 7."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = ConvUnit(192, (1, 1), name="branch1x1")(x)
        seven = ConvUnit(self.width, (1, 1), name="branch7x7_1")(x)
        seven = ConvUnit(self.width, (1, 7), name="branch7x7_2")(seven)
        seven = ConvUnit(192, (7, 1), name="branch7x7_3")(seven)
        twice = ConvUnit(self.width, (1, 1), name="branch7x7dbl_1")(x)
        for i, kernel in enumerate([(7, 1), (1, 7), (7, 1)]):
            twice = ConvUnit(self.width, kernel, name=f"branch7x7dbl_{i + 2}")(twice)
        twice = ConvUnit(192, (1, 7), name="branch7x7dbl_5")(twice)
        pooled = ConvUnit(192, (1, 1), name="branch_pool")(averaged(x))
        return jnp.concatenate([one, seven, twice, pooled], axis=-1)


class MixedD(nn.Module):
    """[b h w c] -> [b h/2 w/2 512 + c]: branches of stride 2."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = ConvUnit(192, (1, 1), name="branch3x3_1")(x)
        three = ConvUnit(320, (3, 3), stride=2, name="branch3x3_2")(three)
        seven = ConvUnit(192, (1, 1), name="branch7x7x3_1")(x)
        seven = ConvUnit(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = ConvUnit(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = ConvUnit(192, (3, 3), stride=2, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, halved(x)], axis=-1)


class MixedE(nn.Module):
    """[b h w c] -> [b h w 2048]: branches that end in a row and a column side by side.

    The last pools a maximum, which was hardly meant, and which all scores have in them.
    """

    pool: Literal["average", "max"]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = ConvUnit(320, (1, 1), name="branch1x1")(x)
        three = ConvUnit(384, (1, 1), name="branch3x3_1")(x)
        three = [ConvUnit(384, kernel, name=f"branch3x3_2{end}")(three) for end, kernel in CROSS.items()]
        twice = ConvUnit(448, (1, 1), name="branch3x3dbl_1")(x)
        twice = ConvUnit(384, (3, 3), name="branch3x3dbl_2")(twice)
        twice = [ConvUnit(384, kernel, name=f"branch3x3dbl_3{end}")(twice) for end, kernel in CROSS.items()]
        neighbours = averaged(x) if self.pool == "average" else nn.max_pool(x, (3, 3), (1, 1), "SAME")
        pooled = ConvUnit(192, (1, 1), name="branch_pool")(neighbours)
        return jnp.concatenate([one, *three, *twice, pooled], axis=-1)


CROSS = {"a": (1, 3), "b": (3, 1)}


def halved(x: Array) -> Array:
    """[b h w c] -> [b (h-1)/2 (w-1)/2 c]: the maximum of 3x3, every second place, without padding."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def averaged(x: Array) -> Array:
    """[b h w c]: the mean of those of the 3x3 places that there are, as TensorFlow has it; PyTorch counts zeros too."""
    sums = nn.pooling.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), "SAME")
    down, across = (np.array([min(i + 2, size) - max(i - 1, 0) for i in range(size)]) for size in x.shape[1:3])
    return sums / jnp.asarray(np.outer(down, across)[None, :, :, None], x.dtype)


def _check(images: Array) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < LEAST_SIDE:
        raise InputError(
            f"images of shape {list(images.shape)} must be [b h w 3], h and w at least {LEAST_SIDE}: resize them to "
            f"{SIDE}"
        )
