"""A conditioner in one file: the model is told whether an image is bright, which it sees for itself in training."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import struct

from marble.conditioning.conditioner import refuse_unread
from marble.schema import Section


@dataclasses.dataclass(frozen=True)
class Words:
    """What the section ``training`` says of it."""

    bright_above: float = 0.0


@struct.dataclass
class Bright:
    """``label`` 1 for an image whose mean is above a number, else 0."""

    above: float = struct.field(pytree_node=False)

    keys = ()
    requests = ("bright",)
    against = ()
    asks = "bright=True or False"
    has_null = False
    null_remedy = "a model that need not be told"
    sections: ClassVar = {"training": Section(constructors=(Words,))}

    @classmethod
    def build(cls, reading, model, class_names, image):
        return cls(reading.make("training", Words).bright_above)

    def context(self, batch, key, *, train):
        return {"label": (batch["image"].mean(axis=(1, 2, 3)) > self.above).astype(jnp.int32)}

    def read(self, examples):
        return examples

    def null(self, batch_size):
        return {"label": jnp.full(batch_size, 2, jnp.int32)}

    def of_rows(self, rows):
        return {"label": rows["label"]}

    def null_of_rows(self, rows):
        return self.null(1)

    def of_request(self, num, request, image):
        refuse_unread(request, self.requests)
        return {"label": np.full(num, int(request["bright"]), np.int32)}

    def of_context(self, num, context):
        return context

    def examples(self, num, held_out=None):
        return {"bright": True}

    def check_batch(self, batch):
        pass

    def check_data(self, name, num_classes):
        pass
