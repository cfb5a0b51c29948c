"""PNDM: pseudo numerical methods (Liu, Ren, Lin & Zhao 2022), linear multistep with a start by Runge and Kutta.

The classical formulas average the derivatives of several steps. Here they average eps, and the step along that
average is the exact one of the ODE for an eps that doesn't change, ``step_along``: "pseudo", as the paper calls it.
Four evaluations of the network a step for the first three (eq. 13), then one (eq. 12):

    Runge-Kutta      (e_1 + 2 e_2 + 2 e_3 + e_4) / 6          at t, twice half-way, and at s
    Adams-Bashforth  (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24  the last four steps

Its coefficients are those of even steps, as the spacings leading and trailing have them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.diffusion.schedules import NoiseSchedule
from marble.sampling.ddim import ddim_step, step_along
from marble.sampling.multistep import History, half_log_snr, no_history
from marble.sampling.sampler import Step
from marble.typing import Array, DenoiseFn, Level, Prediction, coefficient_like

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""The weights of eps at the last 1, 2, 3 and 4 steps, the latest first."""


class PNDM(NamedTuple):
    """Linear multistep of order 4 in a pseudo sense (the transfer leaves order 2)."""

    schedule: NoiseSchedule
    skip_prk_steps: bool = False
    """Starts with one improved Euler step and rising Adams-Bashforth orders, as Stable Diffusion does: N + 1
    evaluations in place of N + 9."""

    def init(self, x: Array, num_steps: int | Array) -> History:
        return no_history(x, num_steps, length=3)

    def step(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: History, keys: Array
    ) -> Step:
        prediction = denoise_fn(x, level_t)
        eps, index = (prediction.eps, *carry.values), carry.index
        multistep = [partial(_weighted, eps, weights) for weights in ADAMS_BASHFORTH]
        start = partial(self._start, denoise_fn, prediction, level_t, level_s)
        starts = 1 if self.skip_prk_steps else 3
        mean_of_step = [*[start] * starts, *multistep[starts:]]
        # The start asks the network at s too, which it can't at the clean level.
        simple = (level_t.alpha == 0) | ((level_s.sigma == 0) & (index < starts))
        x_s = jax.lax.cond(
            simple,
            lambda: ddim_step(prediction, level_t=level_t, level_s=level_s),
            lambda: step_along(
                jax.lax.switch(jnp.minimum(index, 3), mean_of_step), prediction, level_t=level_t, level_s=level_s
            ),
        )
        return Step(x_s, prediction.x_0, carry.push(prediction.eps, half_log_snr(level_t)))

    def _start(self, denoise_fn: DenoiseFn, prediction: Prediction, level_t: Level, level_s: Level) -> Array:
        """The mean eps of a Runge-Kutta step: each stage is asked where the eps of the one before leads to."""
        if self.skip_prk_steps:
            stages, weights = [level_s], [1 / 2, 1 / 2]
        else:
            middle = half_way(self.schedule, level_t, level_s)
            stages, weights = [middle, middle, level_s], [1 / 6, 1 / 3, 1 / 3, 1 / 6]
        stages = jax.tree.map(lambda *values: jnp.stack(values), *stages)

        def stage(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            eps, mean = state
            level = jax.tree.map(lambda values: values[i], stages)
            eps = denoise_fn(step_along(eps, prediction, level_t=level_t, level_s=level), level).eps
            return eps, mean + coefficient_like(jnp.asarray(weights)[i + 1], eps) * eps

        # A loop, so that the compiled program has the network once more, not three times.
        eps = prediction.eps
        return jax.lax.fori_loop(0, len(weights) - 1, stage, (eps, weights[0] * eps))[1]


def half_way(schedule: NoiseSchedule, level_t: Level, level_s: Level) -> Level:
    """The level between two: by the time where it is counted in steps, else by the log-SNR."""
    if schedule.num_train_timesteps is None:
        return schedule.level_at(0.5 * (level_t.log_snr + level_s.log_snr))
    return schedule.level(0.5 * (level_t.t + level_s.t))


def _weighted(values: tuple[Array, ...], weights: tuple[float, ...]) -> Array:
    return sum(weight * value for weight, value in zip(weights, values, strict=False))
