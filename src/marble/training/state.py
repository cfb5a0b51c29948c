"""The state of a training run: one pytree, and all that a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marble.diffusion.timesteps import LossHistory
from marble.typing import Array

NUM_T_BINS = 4
"""The log gives the loss by quarters of t: early quarters are nearly clean images, late ones nearly noise."""


class Window(struct.PyTreeNode):
    """Sums over the steps since the last log. Part of the state, so that a resumed run logs the same numbers."""

    num_steps: Array
    loss: Array
    grad_norm: Array
    loss_by_t: Array
    """[NUM_T_BINS] sums over images."""
    count_by_t: Array

    @classmethod
    def empty(cls) -> "Window":
        """Sums of nothing."""
        bins = jnp.zeros(NUM_T_BINS)
        return cls(
            num_steps=jnp.zeros((), jnp.int32),
            loss=jnp.zeros(()),
            grad_norm=jnp.zeros(()),
            loss_by_t=bins,
            count_by_t=bins,
        )


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
    window: Window
    loss_history: LossHistory | None = None
    """What importance sampling of t remembers; None, which has no leaves, where t is drawn otherwise."""

    @classmethod
    def create(
        cls, params: Any, optimizer: optax.GradientTransformation, loss_history: LossHistory | None = None
    ) -> "TrainState":
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),  # a copy: donating the state must not free it twice
            opt_state=optimizer.init(params),
            diverged=jnp.zeros((), bool),
            window=Window.empty(),
            loss_history=loss_history,
        )
