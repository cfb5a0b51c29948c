"""How images come to the size that a network reads: named, for scores differ by it more than models do.

(Parmar et al. 2022, arXiv:2104.11222.) A name says the kernel, and whether floats are first rounded to 8 bits as they
would be in a file. Images of another aspect are stretched, as all of these libraries do.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.models.interpolation import antialiased_cubic_axis, corner_linear_axis, linear_axis
from marble.typing import Array

Rounding = Literal["uint8", "float"]
"""Whether images of floats are rounded to 8 bits before they are resized."""


class Resize(NamedTuple):
    """A way to a network's size."""

    axis: Callable[[int, int], np.ndarray]
    """(size, new) -> the matrix [new size] of ``marble.models.interpolation``."""
    rounding: Rounding
    clips: bool = False
    """Whether what a kernel makes outside of 0..255 is cut."""


RESIZES: Mapping[str, Resize] = {
    "torch_fidelity": Resize(corner_linear_axis, "uint8"),
    "ddpm": Resize(corner_linear_axis, "float"),
    "clean_fid": Resize(antialiased_cubic_axis, "uint8", clips=True),
    "pytorch_fid": Resize(linear_axis, "uint8"),
}
"""``torch_fidelity`` is the FID graph's own resizing, as ADM's evaluator has it too; ``ddpm`` is that on
samples that were never rounded (Ho et al. 2020); ``clean_fid`` is Pillow's bicubic of floats; ``pytorch_fid`` is
PyTorch's bilinear."""


def check_resize(name: str) -> None:
    """InputError unless there is a resize of this name."""
    if name not in RESIZES:
        raise InputError(f"resize {name!r} is not known: choose one of {', '.join(RESIZES)}")


def to_pixels(images: Array, rounding: Rounding) -> Array:
    """Images [b h w c], uint8 or floats in [-1, 1], as float32 from 0 to 255; c 1 is repeated to 3."""
    pixels = images.astype(jnp.float32)
    if jnp.issubdtype(images.dtype, jnp.floating):
        pixels = (jnp.clip(pixels, -1, 1) + 1) * 127.5
        pixels = jnp.round(pixels) if rounding == "uint8" else pixels
    return pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels


def resized(pixels: Array, size: int, resize: Resize) -> Array:
    """Pixels [b h w c] of 0 to 255, resized to [b size size c]; those of that size already are as they were."""
    h, w = pixels.shape[1:3]
    if (h, w) == (size, size):
        return pixels
    down, across = (jnp.asarray(resize.axis(side, size), jnp.float32) for side in (h, w))
    pixels = jnp.einsum("wj,bijc->biwc", across, pixels)
    pixels = jnp.einsum("hi,biwc->bhwc", down, pixels)
    return jnp.clip(pixels, 0, 255) if resize.clips else pixels
