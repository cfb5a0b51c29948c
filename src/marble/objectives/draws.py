"""How a training step draws t for each image, and the sums of the loss by t.

Everything is drawn by a key made of the step's key and the image's position in the global batch, so the draws are the
same on any number of devices and for any number of micro-batches.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from marble.data.preprocess import example_keys
from marble.diffusion import timesteps
from marble.diffusion.timesteps import LossHistory
from marble.training.state import no_sum
from marble.typing import Array, Batch

TimestepSampling = Literal["uniform", "low_discrepancy", "importance"]

NUM_T_BINS = 4
"""The log gives the loss by quarters of t: early quarters are nearly clean images, late ones nearly noise."""


class DrawOfT(NamedTuple):
    """How t is drawn for a global batch of batch_size images: T steps, or the interval [0, 1) for None."""

    kind: TimestepSampling
    num_train_timesteps: int | None
    batch_size: int | None = None
    """Needed by all kinds but the uniform."""

    def __call__(self, key: Array, batch: Batch, history: LossHistory | None) -> tuple[Array, Array]:
        """(t [b], weights [b]). Without a history, as for a held-out loss, importance sampling is uniform."""
        if self.kind == "importance" and history is not None:
            return timesteps.importance(example_keys(key, batch), history)
        if self.kind == "low_discrepancy":
            t = timesteps.low_discrepancy(key, batch["index"], self.batch_size, self.num_train_timesteps)
        else:
            t = timesteps.uniform(example_keys(key, batch), self.num_train_timesteps)
        return t, jnp.ones(t.shape, jnp.float32)

    def metrics(
        self, batch: Batch, t: Array, weights: Array, losses: Array, history: LossHistory | None
    ) -> dict[str, Array]:
        """Sums by bins of t, in which images with 0 in the batch's ``mask`` [b] don't count; for a history, its draws.

        The draws are [batch_size], each image at its own position, so that those of micro-batches can be added.
        """
        bin_of_t = (t * NUM_T_BINS // (self.num_train_timesteps or 1)).astype(jnp.int32)
        bins = jax.nn.one_hot(bin_of_t, NUM_T_BINS, dtype=jnp.float32) * weights[:, None]
        if "mask" in batch:
            bins = bins * batch["mask"][:, None]
        sums = {"loss_by_t": losses @ bins, "count_by_t": bins.sum(0)}
        if history is None:
            return sums
        placed = lambda x: jnp.zeros(self.batch_size, x.dtype).at[batch["index"]].set(x)  # noqa: E731
        return {**sums, "draws": {"t": placed(t), "losses": placed(losses)}}


def empty_sums() -> dict[str, Array]:
    """The sums of ``DrawOfT.metrics`` over nothing, [NUM_T_BINS] each."""
    return {"loss_by_t": no_sum(NUM_T_BINS), "count_by_t": no_sum(NUM_T_BINS)}


def log_by_t(sums: Mapping[str, Any]) -> dict[str, float]:
    """The mean loss of each bin of t that was drawn."""
    return {
        f"loss_t{i + 1}of{NUM_T_BINS}": float(total / count)
        for i, (total, count) in enumerate(zip(sums["loss_by_t"], sums["count_by_t"], strict=True))
        if count
    }
