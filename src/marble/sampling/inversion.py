"""The probability flow upward: from an image to the noise that a deterministic sampler makes it of.

The ODE has one path through each point, so it can be followed either way (Song et al. 2021, section 4.3; Song, Meng
and Ermon 2021, section 4.3). Upward it begins at the cleanest level of the schedule, and there at the x_t of which the
model predicts the image: the fixed point of x_t = alpha x_0 + sigma eps(x_t), which a few rounds come to, for near the
data eps changes little with x_t.
"""

import jax
import jax.numpy as jnp

from marble.sampling.ode import ODE, Pace, ascended
from marble.typing import Array, Context, DenoiseFn, Level, coefficient_like

ROUNDS = 8
"""Of the fixed point."""


def invert(denoise_fn: DenoiseFn, ode: ODE, level: Level, x_0: Array, *, context: Context | None = None) -> Array:
    """The noise x_T [b ...], of the size of N(0, I), from which the flow leads to x_0 [b ...].

    level is the first of the grid, where sampling begins. The tolerances are those of ode.
    """

    def told(x_t: Array, level: Level, _: Context | None = None):
        return denoise_fn(x_t, level, context)

    first = jnp.zeros((), jnp.float32 if ode.schedule.num_train_timesteps is None else jnp.int32)
    clean = ode.schedule.level(first)
    at = clean.like(x_0)
    x_t = jax.lax.fori_loop(0, ROUNDS, lambda _, x: at.alpha * x_0 + at.sigma * told(x, clean).eps, at.alpha * x_0)
    pace: Pace = ode.init(x_0, 1)
    x_t, _ = ascended(ode, told, clean, level, x_t, pace)
    size = jnp.hypot(jnp.asarray(level.alpha), jnp.asarray(level.sigma))
    return x_t / coefficient_like(jnp.where(jnp.abs(size - 1) < 1e-5, 1.0, size), x_t)
