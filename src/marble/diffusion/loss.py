"""The loss that the ELBO becomes when the model predicts the noise."""

import jax.numpy as jnp

from marble.diffusion.prediction import ModelFn
from marble.diffusion.process import q_sample
from marble.diffusion.schedules import Schedule
from marble.typing import Array, Context


def eps_loss(
    schedule: Schedule,
    model: ModelFn,
    *,
    x_0: Array,
    t: Array,
    noise: Array,
    context: Context | None = None,
    weights: Array | None = None,
) -> Array:
    """w_t mean((noise - eps(x_t, t))^2) for each image, x_t = q_sample(x_0, t, noise).

    Without weights it is L_simple (Ho et al. 2020, eq. 14), with ``weighting.elbo`` the terms of the ELBO (eq. 12) in
    nats a dimension. x_0 and noise are [b ...], t [b], weights a table [T]. Returns [b]; the mean over the axes
    of an image is in float32 or wider.
    """
    eps = model(q_sample(schedule, x_0, t, noise), t, context)
    wide = jnp.promote_types(eps.dtype, jnp.float32)
    squared_error = jnp.square(noise - eps).mean(axis=tuple(range(1, x_0.ndim)), dtype=wide)
    return squared_error if weights is None else jnp.asarray(weights, squared_error.dtype)[t] * squared_error
