"""The state of a training run: one pytree, and all that a checkpoint holds."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marble.typing import Array

Window = Mapping[str, Array]
"""Sums over the steps since the last log: ``num_steps``, ``loss``, ``grad_norm``, and the metrics of the loss function.
Part of the state, so that a resumed run logs the same numbers."""


class Memory(Protocol):
    """What a loss remembers of the steps before, a pytree."""

    def updated(self, **draws: Array) -> Self:
        """With what the metrics of a step's loss have as ``draws``."""


def no_sum(*shape: int) -> Array:
    """Zeros, for sums to be added to, float32 whatever is computed in."""
    return jnp.zeros(shape, jnp.float32)


def empty_window(sums: Window) -> Window:
    """Sums over no step; sums are those of an objective's metrics."""
    return {"num_steps": jnp.zeros((), jnp.int32), "loss": no_sum(), "grad_norm": no_sum(), **sums}


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
    loss_history: Memory | None = None
    """What the loss remembers of the steps before, as importance sampling of t does; None, which has no leaves, where
    it needs nothing."""
    power_averages: Any = None
    """Averages of params of ``post_hoc_ema.LENGTHS``; None where none are kept."""
    frozen: Any = None
    """What the loss reads and no step changes, such as the parameters of a text encoder; None where there is nothing.
    No checkpoint holds it: it comes from where it was first, and ``without_frozen`` is what is saved."""

    def without_frozen(self) -> "TrainState":
        """All that changes from step to step."""
        return self.replace(frozen=None)

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        sums: Window = MappingProxyType({}),
        loss_history: Memory | None = None,
        num_averages: int = 0,
    ) -> "TrainState":
        """The state before the first step; sums are an objective's metrics over nothing."""
        copied = lambda: jax.tree.map(jnp.copy, params)  # donating the state must not free params twice  # noqa: E731
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=copied(),
            opt_state=optimizer.init(params),
            diverged=jnp.zeros((), bool),
            window=empty_window(sums),
            loss_history=loss_history,
            power_averages=tuple(copied() for _ in range(num_averages)) or None,
        )
