"""What a model of few steps learns, where it is a formula: targets, errors and grids of the three ways to one.

    progressive   one step of the student lands where two of the teacher's do      Salimans & Ho 2022
    consistency   two neighbours on one way to the data say the same x_0           Song & Dhariwal 2024
    mean flow     the mean velocity of a span, by its own derivative               Geng et al. 2025

All three learn the map along the probability flow, from x_t to x_s: in two halves, to its end, or for any span.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from marble.diffusion.likelihood import mean_of_image
from marble.typing import Array, Level, Prediction, coefficient_like

RHO = 7.0
"""How the grid of consistency training is bent (Karras et al. 2022, eq. 5)."""


def landing(*, x_t: Array, x_s: Array, level_t: Level, level_s: Level) -> Prediction:
    """The (x_0, eps) with which a step of DDIM from x_t ends at x_s (Salimans & Ho 2022, appendix G).

    x_t = alpha_t x_0 + sigma_t eps and x_s = alpha_s x_0 + sigma_s eps, solved; x_t and x_s are [b ...], at two levels.
    """
    determinant = level_s.alpha * level_t.sigma - level_s.sigma * level_t.alpha
    of = lambda c: coefficient_like(c / determinant, x_t)  # noqa: E731
    return Prediction(
        x_0=of(level_t.sigma) * x_s - of(level_s.sigma) * x_t,
        eps=of(level_s.alpha) * x_t - of(level_t.alpha) * x_s,
    )


def num_scales(step: Array, num_steps: int, first: int, last: int) -> Array:
    """min(first 2^floor(step / K), last), K = floor(num_steps / (floor(log2(last / first)) + 1)).

    Into how many intervals the noise is divided at a step of num_steps (Song & Dhariwal 2024, eq. 6); int32. last is at
    least first.
    """
    doublings = (last // first).bit_length() - 1
    each = max(1, num_steps // (doublings + 1))
    return jnp.minimum(first * 2 ** jnp.minimum(step // each, doublings + 1), last).astype(jnp.int32)


def bent(place: Array, low: float, high: float) -> Array:
    """(low^(1/7) + place (high^(1/7) - low^(1/7)))^7: sigma / alpha at a place in [0, 1] (Karras 2022, eq. 5)."""
    start, end = low ** (1 / RHO), high ** (1 / RHO)
    return (start + place * (end - start)) ** RHO


def place_of(noise: Array, low: float, high: float) -> Array:
    """The place in [0, 1] of sigma / alpha on the grid of ``bent``, which it inverts."""
    start, end = low ** (1 / RHO), high ** (1 / RHO)
    return jnp.clip((noise ** (1 / RHO) - start) / (end - start), 0.0, 1.0)


def pseudo_huber(error: Array, c: float | None = None) -> Array:
    """sqrt(|error|² + c²) - c of each image [b], over all its d numbers (Song & Dhariwal 2024, eq. 7).

    c is 0.00054 sqrt(d) where none is given. Near 0 a square, far off the distance itself: outliers pull no harder than
    others.
    """
    size = error[0].size
    c = 0.00054 * size**0.5 if c is None else c
    squared = size * mean_of_image(jnp.square(error))
    return squared / (jnp.sqrt(squared + c**2) + c)  # which doesn't cancel


def mean_velocity(
    u: Callable[[Array, Array], Array], x_t: Array, velocity: Array, t: Array, s: Array
) -> tuple[Array, Array]:
    """(u(x_t, t), velocity - (t - s) du/dt): the mean velocity from t to s, and what it has to be.

    Geng et al. 2025, eq. 10.

    (t - s) u is how far x goes on its way from t to s, and the derivative of that by t, along the way, is the velocity
    at t: u + (t - s) du/dt. u(x, t) is the network's for that s; x_t and velocity = dx/dt are [b ...], t and s [b].
    """
    said, slope = jax.jvp(u, (x_t, t), (velocity, jnp.ones_like(t)))
    return said, velocity - coefficient_like(t - s, slope) * slope


def evened(squared: Array, *, power: float = 1.0, c: float = 1e-3) -> Array:
    """squared / (squared + c)^power, the divisor a constant to the gradient (Geng et al. 2025, eq. 22), of errors [b].

    With power 1 every image's gradient is about as large, whatever its error; 0 is the squared error.
    """
    return squared / jax.lax.stop_gradient((squared + c) ** power)
