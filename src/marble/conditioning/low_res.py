"""The conditioner of super-resolution: ``low_res`` [b h/f w/f c], a small image, and ``aug_level`` [b], its noise.

In training the small image is made of the large one, the mean over each f x f pixels, and noised to a level drawn for
it, z_s = cos(pi s / 2) z + sin(pi s / 2) noise, s ~ U[0, max_aug_level], which the model is told (conditioning
augmentation, Ho et al. 2022, Cascaded Diffusion Models, section 4.1): so it does not trust what others drew.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marble.conditioning.conditioner import Request, refuse_unread
from marble.data.examples import Examples, evenly
from marble.data.preprocess import example_keys, to_float
from marble.errors import InputError
from marble.schema import Reading, Section
from marble.typing import Array, Batch, Context, ImageSpec, Rows

KEY = 0x10E5
"""Of the noise in what is asked for: an image's own, by its index."""


@dataclasses.dataclass(frozen=True)
class LowResWords:
    """The section ``low_res`` of a config."""

    factor: int = 4
    """How much smaller the sides of the small image are."""
    max_aug_level: float = 0.0
    """Up to which it is noised in training; 0 never, 1 to nothing but noise."""
    aug_level: float = 0.0
    """To which it is noised where nothing else is asked for."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_aug_level <= 1:
            raise InputError(f"low_res.max_aug_level={self.max_aug_level} must be between 0 and 1")
        check_level(self.aug_level, self.max_aug_level, "low_res.aug_level")


@struct.dataclass
class LowRes:
    """A small image for each."""

    image: ImageSpec = struct.field(pytree_node=False)
    """Of the large ones that it is trained on."""
    words: LowResWords = struct.field(pytree_node=False)

    keys = ()
    requests = ("low_res", "aug_level")
    against = ()
    asks = "a small image"
    has_null = False
    null_remedy = "a model that is told of labels or texts: this one is told of small images, always"
    sections: ClassVar[Mapping[str, Section]] = {"low_res": Section(constructors=(LowResWords,), is_optional=True)}

    @classmethod
    def build(cls, reading: Reading, model: nn.Module, class_names: Sequence[str] | None, image: ImageSpec) -> "LowRes":
        """The conditioner of a config."""
        words = reading.make("low_res", LowResWords)
        if not getattr(model, "reads_low_res", False):
            raise InputError("conditioner='low_res' is for models that read it: set model.reads_low_res=True")
        check_factor("low_res.factor", words.factor, image)
        if words.max_aug_level and not getattr(model, "reads_aug_level", False):
            raise InputError(
                f"low_res.max_aug_level={words.max_aug_level} is for models that are told the level: set "
                "model.name='unet', or leave it 0"
            )
        return cls(image, words)

    def context(self, batch: Batch, key: Array, *, train: bool) -> Context:
        """The small images of a batch's, in training each noised to a level of its own."""
        small = area(batch["image"], self.words.factor)
        if not train:
            return self._told(small, jnp.zeros(len(small), jnp.float32), None)
        level_key, noise_key = jax.random.split(key)
        draw = jax.vmap(lambda k: jax.random.uniform(k, maxval=jnp.float32(self.words.max_aug_level)))
        return self._told(small, draw(example_keys(level_key, batch)), example_keys(noise_key, batch))

    def read(self, examples: Examples) -> Examples:
        """The examples as they are."""
        return examples

    def null(self, batch_size: int) -> Context:
        """Grey images, which stand for nothing: shapes alone are read of them."""
        height, width, channels = self.small.shape
        zeros = jnp.zeros((batch_size, height, width, channels), jnp.float32)
        return self._told(zeros, jnp.zeros(batch_size, jnp.float32), None)

    @property
    def small(self) -> ImageSpec:
        """Of the small images."""
        return self.image._replace(shape=small_shape(self.image, self.words.factor))

    def of_rows(self, rows: Batch) -> Context:
        """The small images that were asked for, or those of a batch of data."""
        if "low_res" not in rows:
            return self.context(rows, None, train=False)
        base = jax.random.key(KEY, impl="threefry2x32")
        keys = jax.vmap(lambda index: jax.random.fold_in(base, index))(rows["index"])
        return self._told(rows["low_res"], rows["aug_level"], keys)

    def null_of_rows(self, rows: Batch) -> Context:
        """There is none to go away from."""
        return self.of_rows(rows)

    def of_request(self, num: int, request: Request, image: ImageSpec) -> Rows:
        """``low_res`` [n h/f w/f c], uint8 or floats in [-1, 1], one for all or one an image; ``aug_level``."""
        refuse_unread(request, self.requests)
        given, level = request.get("low_res"), request.get("aug_level")
        level = self.words.aug_level if level is None else level
        check_level(level, self.words.max_aug_level, "aug_level")
        images = small_images(given, num, small_shape(image, self.words.factor))
        return {"low_res": images, "aug_level": np.full(num, level, np.float32)}

    def of_context(self, num: int, context: Context) -> Context:
        """A context that somebody made, or grey images."""
        return context or self.null(num)

    def examples(self, num: int, held_out: Examples | None = None) -> Request:
        """The small images of held-out ones; grey ones without."""
        if held_out is None:
            return {"low_res": np.zeros((num, *self.small.shape), np.float32)}
        images = to_float(evenly(held_out, num), self.image.levels)
        small = np.asarray(area(images, self.words.factor))
        return {"low_res": small[np.arange(num) % len(small)]}

    def check_batch(self, batch: Rows) -> None:
        """Any will do."""

    def check_data(self, name: str, num_classes: int | None) -> None:
        """Any will do."""

    def _told(self, small: Array, level: Array, keys: Array | None) -> Context:
        if not self.words.max_aug_level:
            return {"low_res": small}
        return {"low_res": small if keys is None else noised(small, level, keys), "aug_level": level}


def area(images: Array, factor: int) -> Array:
    """[b h w c] -> [b h/factor w/factor c]: the means over squares of factor x factor pixels."""
    b, h, w, c = images.shape
    return images.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def noised(small: Array, level: Array, keys: Array) -> Array:
    """z_s = cos(pi s / 2) z + sin(pi s / 2) noise, of images z [b h w c] at levels s [b], each from its own key."""
    noise = jax.vmap(lambda key: jax.random.normal(key, small.shape[1:], small.dtype))(keys)
    angle = (0.5 * math.pi * level)[:, None, None, None]
    return jnp.cos(angle) * small + jnp.sin(angle) * noise


def small_images(given: Any, num: int, shape: tuple[int, int, int]) -> np.ndarray:
    """float32 in [-1, 1] [num h w c] of the images that were given, one for all or one an image; InputError if not."""
    if given is None:
        raise InputError(f"this model makes images larger: give low_res, images [{num} {' '.join(map(str, shape))}]")
    images = np.asarray(given)
    images = images[None] if images.ndim == 3 else images
    if images.shape[1:] != shape or len(images) not in (1, num):
        wanted = " ".join(map(str, shape))
        of_one = "" if num == 1 else f" or [1 {wanted}]"
        raise InputError(f"low_res of shape {list(images.shape)}: give [{num} {wanted}]{of_one}; resize or crop them")
    if images.dtype == np.uint8:
        images = (2 * images.astype(np.float32) - 255) / 255
    elif not np.issubdtype(images.dtype, np.floating) or not np.abs(images).max() <= 1:
        raise InputError(f"low_res of {images.dtype}: give uint8, or floats in [-1, 1]")
    return np.broadcast_to(images.astype(np.float32), (num, *shape)).copy()


def small_shape(image: ImageSpec, factor: int) -> tuple[int, int, int]:
    """That of the small images of large ones."""
    height, width, channels = image.shape
    return height // factor, width // factor, channels


def check_factor(name: str, factor: int, image: ImageSpec) -> None:
    """InputError, which begins with the key's name, unless the factor is one and divides the sides of images."""
    height, width, _ = image.shape
    if factor < 2:
        raise InputError(f"{name}={factor} must be at least 2")
    if height % factor or width % factor:
        raise InputError(f"{name}={factor} does not divide the images' sides, {height} x {width}")


def check_level(level: float, most: float, name: str) -> None:
    """InputError for a level that the model was not trained at."""
    if not 0 <= level <= most:
        raise InputError(f"{name}={level} must be between 0 and low_res.max_aug_level={most}")
