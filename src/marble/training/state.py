"""The state of a training run: one pytree, and all that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marble.diffusion.timesteps import LossHistory
from marble.typing import Array

NUM_T_BINS = 4
"""The log gives a diffusion loss by quarters of t: early quarters are nearly clean images, late ones nearly noise."""


def no_sum(*shape: int) -> Array:
    """Zeros, for sums to be added to, float32 whatever is computed in."""
    return jnp.zeros(shape, jnp.float32)


class Window(struct.PyTreeNode):
    """Sums over the steps since the last log. Part of the state, so that a resumed run logs the same numbers.

    Each objective has its own: the fields that it adds are the metrics of its loss function.
    """

    num_steps: Array
    loss: Array
    grad_norm: Array

    @classmethod
    def empty(cls, **of_metrics: Array) -> "Window":
        """Sums of nothing."""
        return cls(num_steps=jnp.zeros((), jnp.int32), loss=no_sum(), grad_norm=no_sum(), **of_metrics)


class DiffusionWindow(Window):
    """The window of ``diffusion_loss_fn``."""

    loss_by_t: Array
    """[NUM_T_BINS] sums over images."""
    count_by_t: Array

    @classmethod
    def empty(cls) -> "DiffusionWindow":
        """Sums of nothing."""
        return super().empty(loss_by_t=no_sum(NUM_T_BINS), count_by_t=no_sum(NUM_T_BINS))

    def parts(self) -> dict[str, float]:
        """What the log says of the loss beside its mean."""
        return {
            f"loss_t{i + 1}of{NUM_T_BINS}": float(total / count)
            for i, (total, count) in enumerate(zip(self.loss_by_t, self.count_by_t, strict=True))
            if count
        }

    @staticmethod
    def loss_and_count(metrics: Mapping[str, Array]) -> tuple[Array, Array]:
        """The sum of the loss over the images of such metrics, and their number."""
        return metrics["loss_by_t"].sum(), metrics["count_by_t"].sum()


class VAEWindow(Window):
    """The window of ``vae_loss_fn``: the loss is reconstruction + kl."""

    reconstruction: Array
    kl: Array
    count: Array

    @classmethod
    def empty(cls) -> "VAEWindow":
        """Sums of nothing."""
        return super().empty(reconstruction=no_sum(), kl=no_sum(), count=no_sum())

    def parts(self) -> dict[str, float]:
        """What the log says of the loss beside its mean."""
        return {"reconstruction": float(self.reconstruction / self.count), "kl": float(self.kl / self.count)}

    @staticmethod
    def loss_and_count(metrics: Mapping[str, Array]) -> tuple[Array, Array]:
        """The sum of the loss over the images of such metrics, and their number."""
        return metrics["reconstruction"] + metrics["kl"], metrics["count"]


class TrainState(struct.PyTreeNode):
    """Everything that changes from step to step."""

    step: Array
    """Updates made, int32."""
    params: Any
    ema_params: Any
    """The exponential moving average of params, which sampling uses."""
    opt_state: Any
    diverged: Array
    """True from the first loss or gradient that is not finite; from then on nothing else changes."""
    window: DiffusionWindow | VAEWindow
    loss_history: LossHistory | None = None
    """What importance sampling of t remembers; None, which has no leaves, where t is drawn otherwise."""

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        window: type[DiffusionWindow] | type[VAEWindow] = DiffusionWindow,
        loss_history: LossHistory | None = None,
    ) -> "TrainState":
        """The state before the first step; window is that of the objective."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),  # a copy: donating the state must not free it twice
            opt_state=optimizer.init(params),
            diverged=jnp.zeros((), bool),
            window=window.empty(),
            loss_history=loss_history,
        )
