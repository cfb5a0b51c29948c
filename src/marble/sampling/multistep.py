"""What multistep samplers share: their memory, and the integral that they step by.

In lambda = log(alpha / sigma), half the log-SNR, the linear part of the probability-flow ODE has an exact solution
(Lu et al. 2022b, DPM-Solver++, proposition 4.1). From level t to level s, with h = lambda_s - lambda_t and tau going
from 0 at t to 1 at s,

    x_s = sigma_s / sigma_t x_t + alpha_s h ∫_0^1 exp(-h (1 - tau)) x_0(tau) dtau.                              (1)

What the network says of x_0 is known at a few tau only: at 0, and at those of the steps before. Put a polynomial
through them. Its powers of tau have the integrals

    I_k = h ∫_0^1 exp(-h (1 - tau)) tau^k dtau,    I_0 = 1 - exp(-h),    I_k = 1 - k / h I_{k-1},               (2)

the second by parts. A polynomial of degree p - 1 makes an error of h^p in x_0, of h^(p+1) in the step, and so is a
method of order p. DPM-Solver++ and UniPC are such methods; they differ in the points and in what they round off.
"""

from typing import NamedTuple

import jax.numpy as jnp

from marble.typing import Array, Level

LOWEST = -40.0
"""In place of the minus infinity of a level without any image: differences have to be numbers."""


class History(NamedTuple):
    """What a multistep sampler remembers: where it is, and its last predictions, the latest first."""

    index: Array
    """The number of the step that comes, from 0."""
    num_steps: Array
    values: tuple[Array, ...]
    """Predictions of x_0 or eps, each [b ...]."""
    lambdas: tuple[Array, ...]
    """log(alpha / sigma) where they were made."""

    def push(self, value: Array, lambda_t: Array) -> "History":
        """The memory after one more step, without the oldest prediction."""
        values, lambdas = (value, *self.values), (lambda_t, *self.lambdas)
        kept = [jnp.asarray(new, old.dtype) for new, old in zip(lambdas, self.lambdas, strict=False)]
        return History(self.index + 1, self.num_steps, values[: len(self.values)], tuple(kept))


def no_history(x: Array, num_steps: int | Array, length: int) -> History:
    """The memory before the first step, with room for ``length`` predictions like x."""
    nowhere = jnp.zeros((), jnp.promote_types(x.dtype, jnp.float32))
    index, num_steps = jnp.zeros((), jnp.int32), jnp.asarray(num_steps, jnp.int32)
    return History(index, num_steps, (jnp.zeros_like(x),) * length, (nowhere,) * length)


def half_log_snr(level: Level) -> Array:
    """lambda = log(alpha / sigma) of a level; +inf at the clean one."""
    return jnp.maximum(0.5 * level.log_snr, LOWEST)


def step_order(order: int, history: History, level_s: Level, *, lower_final: bool | Array) -> Array:
    """The order of the step that comes, 1..order: no more than the predictions that there are.

    With lower_final, the last steps are of order .., 2, 1. A step to the clean level has order 1 in any case: there
    h is infinite, and x_s is the predicted x_0.
    """
    remaining = jnp.where(lower_final, history.num_steps - history.index, order)
    possible = jnp.minimum(jnp.minimum(history.index + 1, order), remaining)
    return jnp.where(level_s.sigma == 0, 1, possible)


def moments(h: Array, count: int) -> list[Array]:
    """I_0 .. I_{count-1} of equation 2, h > 0 or infinite, without the cancellation of its recursion at small h."""
    small = h < 1
    inside = jnp.where(small, h, 1.0)
    last = count + 14
    backwards = inside / (inside + last + 1)  # about I_last; the error falls by h / k a step
    below = []
    for k in range(last, 0, -1):
        backwards = inside / k * (1 - backwards)
        below.append(backwards)
    above = [-jnp.expm1(-h)]
    for k in range(1, count):
        above.append(1 - k / jnp.where(small, 1.0, h) * above[-1])
    return [jnp.where(small, below[-1 - k], above[k]) for k in range(count)]


def interpolation_weights(nodes: list[Array], h: Array) -> list[Array]:
    """Weights w with sum_i w_i p(tau_i) = h ∫_0^1 exp(-h (1 - tau)) p(tau) dtau for p of degree below len(nodes).

    They are the integrals of Lagrange's polynomials through the nodes tau_i, which have to differ.
    """
    integrals = moments(h, len(nodes))
    return [
        sum(c * integral for c, integral in zip(_lagrange(nodes, i), integrals, strict=True)) for i in range(len(nodes))
    ]


def _lagrange(nodes: list[Array], i: int) -> list[Array]:
    """The coefficients, of 1, tau, tau² ..., of the polynomial that is 1 at node i and 0 at the others."""
    coefficients = [jnp.ones_like(nodes[i])]
    for j, node in enumerate(nodes):
        if j != i:
            times_tau, times_node = [0.0, *coefficients], [*(node * c for c in coefficients), 0.0]
            coefficients = [(a - b) / (nodes[i] - node) for a, b in zip(times_tau, times_node, strict=True)]
    return coefficients
