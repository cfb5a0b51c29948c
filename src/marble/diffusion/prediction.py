"""What the model predicts, and the change from one reading of it to another.

Since ``x_t = alpha x_0 + sigma noise``, knowing x_t and one of (x_0, noise) is knowing the other.
"""

from collections.abc import Callable

import jax.numpy as jnp

from marble.diffusion.schedules import Schedule
from marble.typing import Array, Context, DenoiseFn, Level, Prediction

ModelFn = Callable[[Array, Array, Context | None], Array]
"""model(x_t [b ...], t [b], context) -> its output, shaped like x_t: a network with its parameters bound."""


def x_0_from_eps(*, x_t: Array, eps: Array, level: Level) -> Array:
    """x_0 = (x_t - sigma eps) / alpha (Ho et al. 2020, eq. 15)."""
    level = level.like(x_t)
    return (x_t - level.sigma * eps) / level.alpha


def eps_from_x_0(*, x_t: Array, x_0: Array, level: Level) -> Array:
    """eps = (x_t - alpha x_0) / sigma."""
    level = level.like(x_t)
    return (x_t - level.alpha * x_0) / level.sigma


def denoiser(model: ModelFn, schedule: Schedule, *, clip_sample: bool = False) -> DenoiseFn:
    """The DenoiseFn of a model that predicts eps: where model and schedule meet.

    Takes t as an integer, or integers [b], in 0..T-1. With clip_sample the predicted x_0 is clipped to [-1, 1], the
    range of images, as in the DDPM reference's sampler; eps stays the model's.
    """

    def denoise_fn(x_t: Array, t: Array, context: Context | None = None) -> Prediction:
        eps = model(x_t, jnp.broadcast_to(t, x_t.shape[:1]), context)
        x_0 = x_0_from_eps(x_t=x_t, eps=eps, level=schedule.level(t))
        return Prediction(x_0=jnp.clip(x_0, -1, 1) if clip_sample else x_0, eps=eps)

    return denoise_fn
