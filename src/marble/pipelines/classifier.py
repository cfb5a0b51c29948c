"""A trained classifier of noisy images, which guides towards what is asked for (Dhariwal and Nichol 2021)."""

from typing import Any

import flax.linen as nn
from flax import struct

from marble.models.adm import log_prob
from marble.typing import Array, Context, Level


@struct.dataclass
class Classifier:
    """model(x_t, t) -> logits [b num_classes] of the classes that the context names; a pytree of its parameters."""

    params: Any
    model: nn.Module = struct.field(pytree_node=False)

    def log_prob(self, x_t: Array, level: Level, context: Context | None) -> Array:
        """log p(label | x_t) [b], 0 for an image that is told no class."""
        t = level.t if level.t.ndim else level.t[None].repeat(x_t.shape[0], 0)
        logits = self.model.apply({"params": self.params}, x_t, t)
        label = context["label"]
        has_class = label < logits.shape[-1]
        return has_class * log_prob(logits, label * has_class)
