"""DPM-Solver++: 2M and 3M, the multistep solvers of the ODE, and the SDE form (Lu et al. 2022b).

``multistep`` has the integral. With tau = 0 at t, -r_0 one step and -(r_0 + r_1) two steps before, m_0, m_1, m_2 the
predictions of x_0 there, and the divided differences

    D1_0 = (m_0 - m_1) / r_0,    D1_1 = (m_1 - m_2) / r_1,    D2 = (D1_0 - D1_1) / (r_0 + r_1),

the parabola through the three is m_0 + D1 tau + D2 tau² with D1 = D1_0 + r_0 D2, and its integral

    I_0 m_0 + I_1 D1 + I_2 D2                                                       3M, corrected: order 3.

The published 3M, and the codes that follow it, have I_2 / 2 for I_2: they weigh D2 as if it were the second
derivative in tau, but a divided difference is half of that. What is lost, D2 I_2 / 2, is of the size h³ a step, so the
published 3M is of order 2. The straight line through m_0 and m_1 has the integral I_0 m_0 + I_1 D1_0; 2M puts I_0 / 2
for I_1, which differ by h² / 12: with D1_0 that is h³ a step too, and 2M is of order 2.

The SDE form draws noise as the ancestral sampler does, and its integrals are those of 2 h (Lu et al. 2022b, eq. 19).
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.sampling.multistep import History, half_log_snr, moments, no_history, step_order
from marble.sampling.sampler import Step, noise_like
from marble.typing import Array, DenoiseFn, Level, coefficient_like

FEW_STEPS = 15
"""Below this number of steps, lower_order_final lowers the order of the last ones."""


def first_order(m_0: Array, *, h: Array) -> Array:
    """The integral of m_0: I_0 m_0."""
    (i_0,) = moments(h, 1)
    return coefficient_like(i_0, m_0) * m_0


def second_order(m_0: Array, m_1: Array, *, h: Array, r_0: Array) -> Array:
    """2M: I_0 (m_0 + D1_0 / 2), about the integral of the line through m_0 at 0 and m_1 at -r_0."""
    (i_0,) = moments(h, 1)
    return coefficient_like(i_0, m_0) * m_0 + coefficient_like(i_0 / (2 * r_0), m_0) * (m_0 - m_1)


def third_order(
    m_0: Array, m_1: Array, m_2: Array, *, h: Array, r_0: Array, r_1: Array, corrected: bool = True
) -> Array:
    """3M: I_0 m_0 + I_1 D1 + I_2 D2, of the parabola through m_0, m_1, m_2; I_2 / 2 where not corrected."""
    i_0, i_1, i_2 = moments(h, 3)
    like = lambda coefficient: coefficient_like(coefficient, m_0)  # noqa: E731
    first_0, first_1 = like(1 / r_0) * (m_0 - m_1), like(1 / r_1) * (m_1 - m_2)
    second = like(1 / (r_0 + r_1)) * (first_0 - first_1)
    quadratic = i_2 if corrected else i_2 / 2
    return like(i_0) * m_0 + like(i_1) * (first_0 + like(r_0) * second) + like(quadratic) * second


class DPMSolver(NamedTuple):
    """DPM-Solver++ of order 1, 2 or 3, one evaluation of the network a step."""

    order: int = 2
    corrected: bool = True
    """3M with the integral of its parabola, of order 3; False is the published one, of order 2."""
    stochastic: bool = False
    """The SDE form, which draws noise in every step."""
    lower_order_final: bool = True
    """With fewer than 15 steps, the last ones are of order 2 and 1: more stable."""

    def init(self, x: Array, num_steps: int | Array) -> History:
        if self.order not in (1, 2, 3):
            raise InputError(f"DPM-Solver++ of order {self.order}: give 1, 2 or 3")
        return no_history(x, num_steps, length=self.order - 1)

    def step(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: History, keys: Array
    ) -> Step:
        prediction = denoise_fn(x, level_t)
        lambda_t, lambda_s = half_log_snr(level_t), half_log_snr(level_s)
        h = lambda_s - lambda_t
        integral = self._integral(prediction.x_0, h, lambda_t, level_s, carry)
        kept = level_s.sigma / level_t.sigma * (jnp.exp(-h) if self.stochastic else 1.0)
        x_s = coefficient_like(kept, x) * x + coefficient_like(level_s.alpha, x) * integral
        if self.stochastic:
            x_s += coefficient_like(level_s.sigma * jnp.sqrt(-jnp.expm1(-2 * h)), x) * noise_like(keys, x)
        return Step(x_s, prediction.x_0, carry.push(prediction.x_0, lambda_t))

    def _integral(self, m_0: Array, h: Array, lambda_t: Array, level_s: Level, history: History) -> Array:
        m, before = (m_0, *history.values), (lambda_t, *history.lambdas)
        r = [(a - b).astype(h.dtype) / h for a, b in pairwise(before)]
        length = 2 * h if self.stochastic else h
        orders = [
            lambda: first_order(m[0], h=length),
            lambda: second_order(m[0], m[1], h=length, r_0=r[0]),
            lambda: third_order(*m, h=length, r_0=r[0], r_1=r[1], corrected=self.corrected),
        ]
        few = history.num_steps < FEW_STEPS
        order = step_order(self.order, history, level_s, lower_final=few if self.lower_order_final else False)
        return jax.lax.switch(order - 1, orders[: self.order])


def dpm_solver_2m(lower_order_final: bool = True) -> DPMSolver:
    """DPM-Solver++(2M)."""
    return DPMSolver(2, lower_order_final=lower_order_final)


def dpm_solver_3m(corrected: bool = True, lower_order_final: bool = True) -> DPMSolver:
    """DPM-Solver++(3M), with the exact integral of its parabola or, not corrected, as published."""
    return DPMSolver(3, corrected=corrected, lower_order_final=lower_order_final)


def dpm_solver_sde(lower_order_final: bool = True) -> DPMSolver:
    """SDE-DPM-Solver++(2M)."""
    return DPMSolver(2, stochastic=True, lower_order_final=lower_order_final)
