"""An objective in one file: the model learns the mean image of the data, and draws it."""

import dataclasses
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from marble.data.preprocess import to_uint8
from marble.objectives.objective import Plain
from marble.parallel import WHOLE
from marble.schema import DTYPES, Section
from marble.typing import ImageSpec


class MeanImage(nn.Module):
    """One image, whatever it is asked."""

    image_shape: tuple[int, int, int]
    start: float = 0.0
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self):
        return self.param("image", nn.initializers.constant(self.start), self.image_shape, self.dtype)


class ToyPipeline(NamedTuple):
    """Draws the one image."""

    params: dict
    image: ImageSpec
    mapping: object

    def sample(self, num, *, seed=0, params=None):
        del seed
        mean = (self.params if params is None else params)["image"]
        return np.repeat(np.asarray(to_uint8(mean, self.image.levels))[None], num, axis=0)


@dataclasses.dataclass(frozen=True)
class Toy(Plain):
    """The mean of squared errors."""

    model: MeanImage
    image: ImageSpec

    keys = ()
    sections: ClassVar = {"model": Section({"name": {"mean_image": MeanImage}, "dtype": DTYPES}, ("name",))}

    @classmethod
    def build(cls, reading, given):
        shape, dtype = given.image.shape, reading.named("model", "dtype")
        return cls(reading.make("model", "name", image_shape=shape, dtype=dtype), given.image)

    def init_params(self, key):
        return self.model.init(key)["params"]

    def loss_fn(self, *, train, across=WHOLE):
        def loss_fn(params, batch, key):
            error = jnp.square(batch["image"] - self.model.apply({"params": params})[None]).mean(axis=(1, 2, 3))
            mask = batch.get("mask", jnp.ones(error.shape))
            return error.mean(), {"error": error @ mask, "count": mask.sum()}

        return loss_fn

    def sums(self):
        return {"error": jnp.zeros(()), "count": jnp.zeros(())}

    def log(self, sums):
        return {"rmse": float(np.sqrt(sums["error"] / sums["count"]))}

    def loss_and_count(self, sums):
        return sums["error"], sums["count"]

    def pipeline(self, params, *, mapping, guide=None, classifier=None):
        return ToyPipeline(params, self.image, mapping)

    def grid(self, pipe, params, held_out, *, num, seed):
        return pipe.sample(num, seed=seed, params=params)
