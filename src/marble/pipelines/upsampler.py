"""A trained plain upsampler in use: small images in, large ones out."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marble.conditioning.low_res import small_images, small_shape
from marble.data.preprocess import to_uint8
from marble.errors import InputError
from marble.parallel import DeviceMapping, ParallelConfig
from marble.pipelines.copies import Copyable
from marble.pipelines.rows import over_batches, whole
from marble.typing import Array, ImageSpec


class UpsamplerPipeline(Copyable):
    """A network that answers small images with large ones, ``factor`` times as high and wide.

    Batches are split over all devices. params in a call replace the pipeline's own.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        params: Any,
        factor: int,
        image: ImageSpec,
        batch_size: int,
        mapping: DeviceMapping | None = None,
    ) -> None:
        """image is of the large ones."""
        self.model, self.factor, self.image, self.batch_size = model, factor, image, batch_size
        self.mapping = mapping or ParallelConfig().open()
        self.params = self.mapping.place(params)
        self._batch = self.mapping.compile_rows(
            lambda params, batch: enlarged(model, params, batch["low_res"], image.shape[:2])
        )

    @property
    def small(self) -> ImageSpec:
        """Of the images that it reads."""
        return self.image._replace(shape=small_shape(self.image, self.factor))

    def sample(
        self,
        num: int,
        *,
        low_res: Any = None,
        seed: int = 0,
        first: int = 0,
        params: Any = None,
        as_float: bool = False,
        progress: bool = False,
        **request: Any,
    ) -> np.ndarray:
        """num images [num h w c], uint8 or float32 in [-1, 1], of low_res [num h/f w/f c], or of one for all.

        low_res is uint8 or floats in [-1, 1]. Nothing is drawn, so seed and first change nothing; what diffusion models
        are asked beside them is an InputError, unless it is None.
        """
        del seed, first
        for name, value in request.items():
            if value is not None and value is not False:
                raise InputError(f"{name}={value} given, but a plain upsampler answers in one step: leave it out")
        num = whole("num", num)
        small = small_images(low_res, num, self.small.shape)
        options = dict(batch_size=self.batch_size, mapping=self.mapping, progress=progress)
        params = self.params if params is None else params
        images = over_batches(self._batch, params, {"low_res": small}, **options)
        return np.clip(images, -1, 1) if as_float else np.asarray(to_uint8(images, self.image.levels))


def enlarged(model: nn.Module, params: Any, small: Array, sides: tuple[int, int], **options: Any) -> Array:
    """up(z) + f(up(z)) [b h w c] of small images z [b h' w' c]; options are of the network."""
    up = bicubic(small, sides)
    return up + model.apply({"params": params}, up, jnp.zeros(len(up), jnp.int32), **options)


def bicubic(small: Array, sides: tuple[int, int]) -> Array:
    """Images [b h' w' c] at these sides, by cubic interpolation between the centres of pixels (Keys 1981)."""
    return jax.image.resize(small, (len(small), *sides, small.shape[-1]), "bicubic")
