"""A network that images are judged by, with all that its numbers depend on."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marble.convert.names import flat
from marble.errors import InputError
from marble.features.resize import RESIZES, Rounding, check_resize, resized, to_pixels
from marble.typing import Array


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """``apply(params, prepare(images))`` gives the layers that metrics read.

    Numbers compare where name, weights_hash, resize and rounding are the same.
    """

    name: str
    """inception, effnet-lite0, clip or dinov2."""
    distance_name: str
    """What a Fréchet distance on its features is called: FID on the Inception of that paper alone."""
    params: Any = dataclasses.field(repr=False)
    """Arrays; an argument of programs, and never a constant in them."""
    forward: Callable[[Any, Array], Mapping[str, Array]] = dataclasses.field(repr=False)
    """(params, prepared images [b size size 3]) -> the layers."""
    layers: tuple[str, ...]
    """``features`` [b d], and where the network has them ``spatial`` [b d], ``logits`` [b classes] (the Inception
    score's, of FID's network without the last bias) and ``embedding`` [b d] of length 1 (CLIP's)."""
    size: int
    """Pixels a side of what it reads."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """The network reads (pixel - mean) / std, of pixels from 0 to 255."""
    resize: str
    """One of RESIZES."""
    rounding: Rounding
    weights_hash: str
    """Of ``hash_of``."""
    trunk: Callable[[Any, Array], tuple[Array, ...]] | None = None
    """(params, images as the network reads them) -> layers of places [b h' w' c], from fine to coarse, or None."""

    def __post_init__(self) -> None:
        check_resize(self.resize)
        if self.rounding not in ("uint8", "float"):
            raise InputError(f"rounding {self.rounding!r} is not known: choose uint8 or float")

    @property
    def described(self) -> dict[str, str]:
        """What a number's stamp says of it."""
        return {
            "network": self.name,
            "weights": self.weights_hash,
            "resize": self.resize,
            "rounding": self.rounding,
        }

    def prepare(self, images: Array) -> Array:
        """Images [b h w c], uint8 or floats in [-1, 1], c 1 or 3, as float32 [b size size 3] that the network reads."""
        with jax.default_matmul_precision("highest"):
            pixels = resized(to_pixels(images, self.rounding), self.size, RESIZES[self.resize])
        mean, std = (jnp.asarray(value, jnp.float32)[None, None, None] for value in (self.mean, self.std))
        return (pixels - mean) / std

    def maps(self, params: Any, images: Array) -> tuple[Array, ...]:
        """Layers of places [b h' w' c] of images [b h w c] in [-1, 1], c 1 or 3, at the size that they have."""
        mean, std = (jnp.asarray(value, jnp.float32)[None, None, None] for value in (self.mean, self.std))
        return self.trunk(params, (127.5 * (images + 1) - mean) / std)

    def apply(self, params: Any, images: Array) -> Mapping[str, Array]:
        """The layers of prepared images. On a TPU or GPU, too, with all digits of float32: else scores would differ."""
        with jax.default_matmul_precision("highest"):
            return self.forward(params, images)


def hash_of(params: Any) -> str:
    """16 hexadecimal digits of SHA-256 over all arrays and their names: the same for the same weights in any file."""
    sha = hashlib.sha256()
    for path, array in sorted(flat(params).items()):
        sha.update(f"{path} {array.shape} {array.dtype} ".encode())
        sha.update(np.ascontiguousarray(array).view(np.uint8).data)
    return sha.hexdigest()[:16]
