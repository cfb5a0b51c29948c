"""Painters that need no training: exact denoisers of grey images whose class is their brightness."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marble.conditioning import Identity, Labels
from marble.diffusion import linear
from marble.parallel import ParallelConfig
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.sampling import DDIM, Euler

SCHEDULE = linear(20, beta_start=0.005, beta_end=0.6)
BRIGHTNESS = (-0.6, 0.6, 0.0)
"""Of the two classes, and of none."""
VARIANCE = 0.01


class Painter(nn.Module):
    """eps of images whose pixels are N(brightness of the class, VARIANCE)."""

    num_classes = 2

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        level = SCHEDULE.level(t).like(x_t)
        mean = jnp.asarray(BRIGHTNESS)[context["label"]].reshape(-1, 1, 1, 1)
        return level.sigma / (level.alpha**2 * VARIANCE + level.sigma**2) * (x_t - level.alpha * mean)


@struct.dataclass
class Words(Labels):
    """Texts, of which those that have its name in them are of a class."""

    requests = ("text", "negative_text")
    against = ("negative_text",)
    asks = "a text"

    def of_request(self, num, request, image):
        texts = [request.get(name) or "" for name in self.requests]
        found = [next((i for i, name in enumerate(self.class_names) if name in text), 2) for text in texts]
        return {"label": np.full(num, found[0], np.int32), "negative": np.full(num, found[1], np.int32)}

    def null_of_rows(self, rows):
        return {"label": rows["negative"]}


def painter(conditioner=Labels):
    return DiffusionPipeline(
        model=Painter(),
        params={},
        schedule=SCHEDULE,
        codec=Identity(ImageSpec((8, 8, 1), 256)),
        sampler=DDIM(),
        config=SamplingConfig(batch_size=64),
        conditioner=conditioner(2, 0.1, ("night", "day")),
        named_sampler={"euler": Euler(SCHEDULE)}.__getitem__,
        mapping=ParallelConfig().open(jax.devices()[:1]),  # for which two cores compile sooner
    )
