"""Euler's and Heun's methods with EDM's churn (Karras et al. 2022, algorithms 1 and 2).

In x / alpha and the noise-to-signal ratio rho = sigma / alpha, the probability-flow ODE of every schedule is the same,

    d(x / alpha) / d rho = eps(x, rho),                                      Karras et al. 2022, eq. 4 with s = 1

and an Euler step of it is DDIM with eta 0 (Song, Meng & Ermon 2021, eq. 13). Churn first goes up from rho to
(1 + gamma) rho by fresh noise, and then down from there: noise makes good the errors of earlier steps. gamma 0 is
the ODE alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.diffusion.schedules import NoiseSchedule
from marble.sampling.ddim import ddim_step, step_along
from marble.sampling.sampler import Number, Step, check_between, noise_like
from marble.typing import Array, DenoiseFn, Level, Prediction, coefficient_like

MOST_GAMMA = 2**0.5 - 1
"""No step more than doubles the variance of the noise: (1 + gamma)² <= 2."""


class Churn(NamedTuple):
    """How much noise is drawn anew (Karras et al. 2022, algorithm 2): their S_churn, S_min, S_max and S_noise."""

    amount: Number
    low: Number
    high: Number
    noise: Number

    def check(self) -> None:
        """InputError for values below 0."""
        for name, value in zip(("s_churn", "s_min", "s_max", "s_noise"), self, strict=True):
            check_between(name, value, 0)

    def __call__(
        self, schedule: NoiseSchedule, level: Level, x: Array, keys: Array, num_steps: Array
    ) -> tuple[Array, Level]:
        """(x, level) with the noise raised from rho to (1 + gamma) rho, gamma = min(S_churn / N, sqrt(2) - 1)."""
        rho = level.sigma / level.alpha
        inside = (rho >= self.low) & (rho <= self.high) & (level.alpha > 0)
        gamma = jnp.where(inside, jnp.minimum(self.amount / num_steps, MOST_GAMMA), 0.0).astype(rho.dtype)
        raised = schedule.level_at(level.log_snr - 2 * jnp.log1p(gamma))
        # At gamma 0 the very same level, of which level_at knows the rounded log-SNR only.
        raised = jax.tree.map(lambda a, b: jnp.where(gamma > 0, a, b), raised, level)
        kept = jnp.where(gamma > 0, raised.alpha / level.alpha, 1.0)
        added = jnp.where(gamma > 0, raised.alpha * rho * jnp.sqrt(gamma * (2 + gamma)) * self.noise, 0.0)
        return coefficient_like(kept, x) * x + coefficient_like(added, x) * noise_like(keys, x), raised


def _init(self: "Euler | Heun", x: Array, num_steps: int | Array) -> Array:
    Churn(*self[1:]).check()
    return jnp.asarray(num_steps, jnp.int32)


def _euler_step(
    self: "Euler | Heun", denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, num_steps: Array, keys: Array
) -> tuple[Array, Prediction, Level]:
    """(x_s, the prediction that leads there, the level where it was made): churn, and a step along eps."""
    x, level = Churn(*self[1:])(self.schedule, level_t, x, keys, num_steps)
    prediction = denoise_fn(x, level)
    return ddim_step(prediction, level_t=level, level_s=level_s), prediction, level


class Euler(NamedTuple):
    """One evaluation a step, order 1."""

    schedule: NoiseSchedule
    s_churn: Number = 0.0
    s_min: Number = 0.0
    s_max: Number = float("inf")
    s_noise: Number = 1.0

    init = _init

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: Array, keys: Array) -> Step:
        x_s, prediction, _ = _euler_step(self, denoise_fn, level_t, level_s, x, carry, keys)
        return Step(x_s, prediction.x_0, carry)


class Heun(NamedTuple):
    """Two evaluations a step, order 2: the mean of eps at both ends. The step to the clean level is Euler's."""

    schedule: NoiseSchedule
    s_churn: Number = 0.0
    s_min: Number = 0.0
    s_max: Number = float("inf")
    s_noise: Number = 1.0

    init = _init

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: Array, keys: Array) -> Step:
        x_s, prediction, level = _euler_step(self, denoise_fn, level_t, level_s, x, carry, keys)

        def twice() -> Array:
            mean = 0.5 * (prediction.eps + denoise_fn(x_s, level_s).eps)
            return step_along(mean, prediction, level_t=level, level_s=level_s)

        x_s = jax.lax.cond(jnp.all((level_s.sigma > 0) & (level.alpha > 0)), twice, lambda: x_s)
        return Step(x_s, prediction.x_0, carry)
