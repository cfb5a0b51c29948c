"""UniPC: a multistep predictor, and a corrector that costs no evaluation of the network (Zhao et al. 2023).

``multistep`` has the integral. UniP of order p puts a polynomial through the predictions of x_0 at t and at the p - 1
steps before. Once the network has been asked at s, as the next step does anyway, UniC goes back and makes the step
from t to s again with that prediction as one point more, and is of order p + 1.

The paper writes this with a function B(h), h for ``bh1`` and exp(h) - 1 for ``bh2`` (here, in data prediction, of -h
and turned to be positive), and solves a linear system for the weights. B cancels out of its solution, which is
Lagrange's: the integrals of the polynomials through the points. B is left only where the system is not solved, but
its one weight set to B / 2: in UniP of order 2 and in UniC of order 1. The two variants differ there alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.sampling.multistep import (
    History,
    half_log_snr,
    interpolation_weights,
    moments,
    no_history,
    step_order,
)
from marble.sampling.sampler import Step
from marble.typing import Array, DenoiseFn, Level, coefficient_like

Variant = Literal["bh1", "bh2"]


def line_weights(node: Array, h: Array, variant: Variant) -> list[Array]:
    """The weights of m_0 at 0 and m_1 at the node for I_0 m_0 + B / 2 (m_1 - m_0) / node."""
    (i_0,) = moments(h, 1)
    slope = 0.5 * (h if variant == "bh1" else i_0) / node
    return [i_0 - slope, slope]


class Memory(NamedTuple):
    """What UniPC remembers: predictions, and where it made its last step from, to make it again."""

    history: History
    x: Array
    """x there, corrected."""
    sigma: Array
    """sigma there."""
    order: Array
    """The order of that step; 0 before the first."""


class UniPC(NamedTuple):
    """UniPC of order 1, 2 or 3 (the predictor's), one evaluation of the network a step."""

    order: int = 2
    variant: Variant = "bh2"
    lower_order_final: bool = True
    """The last steps are of order .., 2, 1: more stable with few of them."""

    def init(self, x: Array, num_steps: int | Array) -> Memory:
        if self.order not in (1, 2, 3):
            raise InputError(f"UniPC of order {self.order}: give 1, 2 or 3")
        if self.variant not in ("bh1", "bh2"):
            raise InputError(f"UniPC variant {self.variant!r} is not one of bh1, bh2")
        sigma = jnp.ones((), jnp.promote_types(x.dtype, jnp.float32))
        return Memory(no_history(x, num_steps, length=self.order), x, sigma, jnp.zeros((), jnp.int32))

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: Memory, keys: Array) -> Step:
        x_0, history = denoise_fn(x, level_t).x_0, carry.history
        x = jax.lax.switch(carry.order, [lambda: x, *self._correctors(x_0, level_t, carry)])
        order = step_order(self.order, history, level_s, lower_final=self.lower_order_final)
        memory = Memory(
            history.push(x_0, half_log_snr(level_t)), x, jnp.asarray(level_t.sigma, carry.sigma.dtype), order
        )
        x_s = jax.lax.switch(order - 1, self._predictors(level_s, memory))
        return Step(x_s, x_0, memory)

    def _predictors(self, level_s: Level, memory: Memory) -> list[Callable[[], Array]]:
        """The step from the remembered level to level_s, for each order of UniP."""
        points, (h, nodes) = memory.history.values, _nodes(memory.history.lambdas, level_s)

        def of_order(p: int) -> Array:
            at = nodes[:p]
            weights = line_weights(at[1], h, self.variant) if p == 2 else interpolation_weights(at, h)
            return _step(memory, level_s, points[:p], weights)

        return [partial(of_order, p) for p in range(1, self.order + 1)]

    def _correctors(self, x_0: Array, level_s: Level, memory: Memory) -> list[Callable[[], Array]]:
        """The same with x_0 at level_s as one point more, for each order of UniC."""
        points, (h, nodes) = memory.history.values, _nodes(memory.history.lambdas, level_s)

        def of_order(p: int) -> Array:
            at = [*nodes[:p], jnp.ones_like(h)]
            weights = line_weights(at[1], h, self.variant) if p == 1 else interpolation_weights(at, h)
            return _step(memory, level_s, [*points[:p], x_0], weights)

        return [partial(of_order, p) for p in range(1, self.order + 1)]


def _nodes(lambdas: tuple[Array, ...], level_s: Level) -> tuple[Array, list[Array]]:
    """h, and the tau of each lambda: 0 for the first, below 0 for those before."""
    lambda_s = half_log_snr(level_s)
    lambdas = [value.astype(lambda_s.dtype) for value in lambdas]
    h = lambda_s - lambdas[0]
    return h, [(value - lambdas[0]) / h for value in lambdas]


def _step(memory: Memory, level_s: Level, points: Sequence[Array], weights: list[Array]) -> Array:
    """Equation 1 of ``multistep``, the integral a weighted sum of the points."""
    x = memory.x
    integral = sum(coefficient_like(w, x) * point for w, point in zip(weights, points, strict=True))
    kept = level_s.sigma / memory.sigma
    return coefficient_like(kept, x) * x + coefficient_like(level_s.alpha, x) * integral
