"""What a model predicts, and every other reading of it.

Since ``x_t = alpha x_0 + sigma eps``, knowing x_t and one linear combination ``a x_0 + b eps`` is knowing both x_0 and
eps. So everything that models are trained to predict is one row of a table (``READINGS``), the pair (a, b):

    x_0              1,  0           the image                           Ho et al. 2020, section 3.2
    eps              0,  1           the noise                           Ho et al. 2020, eq. 11
    v           -sigma,  alpha       the velocity on the circle          Salimans & Ho 2022, appendix D
    score            0, -1/sigma     the gradient of log q(x_t)          Song et al. 2021; Luo 2022, eq. 151
    flow            -1,  1           the velocity on the straight line   Lipman et al. 2023; Liu et al. 2023
    edm     see below                what EDM's network puts out         Karras et al. 2022, eq. 7
    posterior_mean  see below        the mean of q(x_s | x_t, x_0)       Ho et al. 2020, eq. 7

and solving the two equations for (x_0, eps) is the same for all of them.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from marble.diffusion.process import q_posterior_coefficients
from marble.diffusion.schedules import NoiseSchedule
from marble.errors import InputError
from marble.typing import Array, Context, DenoiseFn, Level, Prediction, coefficient_like

ModelFn = Callable[[Array, Array, Context | None], Array]
"""model(x_t [b ...], t [b], context) -> its output, shaped like x_t: a network with its parameters bound."""

PredictionType = Literal["eps", "x_0", "v", "score", "flow", "edm", "posterior_mean"]

DATA_STD = 0.5
"""The standard deviation of images in [-1, 1] that EDM's preconditioning assumes (Karras et al. 2022, table 1)."""


def _edm(level: Level, _: Level | None) -> tuple[Array, Array]:
    # (x_0 - c_skip x) / c_out for x = x_t / alpha = x_0 + noise eps, the noise being sigma / alpha.
    noise = level.sigma / level.alpha
    total = jnp.sqrt(noise**2 + DATA_STD**2)
    return noise / (DATA_STD * total), -DATA_STD / total


def _posterior_mean(level: Level, level_s: Level | None) -> tuple[Array, Array]:
    of_x_t, of_x_0, _ = q_posterior_coefficients(level, level_s)
    return of_x_t * level.alpha + of_x_0, of_x_t * level.sigma


READINGS: dict[PredictionType, Callable[[Level, Level | None], tuple[Array, Array]]] = {
    "eps": lambda level, _: (jnp.zeros_like(level.alpha), jnp.ones_like(level.alpha)),
    "x_0": lambda level, _: (jnp.ones_like(level.alpha), jnp.zeros_like(level.alpha)),
    "v": lambda level, _: (-level.sigma, level.alpha),
    "score": lambda level, _: (jnp.zeros_like(level.alpha), -1 / level.sigma),
    "flow": lambda level, _: (-jnp.ones_like(level.alpha), jnp.ones_like(level.alpha)),
    "edm": _edm,
    "posterior_mean": _posterior_mean,
}
"""(a, b) of each reading ``a x_0 + b eps``, from the level and, for the posterior mean, the one that is stepped to."""


def coefficients(kind: PredictionType, level: Level, level_s: Level | None = None) -> tuple[Array, Array]:
    """(a, b) of the reading ``a x_0 + b eps``; level_s is for the posterior mean alone."""
    return READINGS[kind](level, level_s)


def read(prediction: Prediction, kind: PredictionType, *, level: Level, level_s: Level | None = None) -> Array:
    """The prediction as another reading: a x_0 + b eps, shaped like x_0. level_s is for the posterior mean alone."""
    a, b = (coefficient_like(c, prediction.x_0) for c in coefficients(kind, level, level_s))
    return a * prediction.x_0 + b * prediction.eps


def predict(
    output: Array, kind: PredictionType, *, x_t: Array, level: Level, level_s: Level | None = None
) -> Prediction:
    """The Prediction that a reading of it, ``output``, leaves no choice about: two linear equations solved.

    x_t = alpha x_0 + sigma eps and output = a x_0 + b eps, with the determinant alpha b - sigma a.
    """
    a, b = coefficients(kind, level, level_s)
    determinant = level.alpha * b - level.sigma * a
    of = lambda c: coefficient_like(c / determinant, x_t)  # noqa: E731
    return Prediction(
        x_0=of(b) * x_t - of(level.sigma) * output,
        eps=of(level.alpha) * output - of(a) * x_t,
    )


def x_0_from_eps(*, x_t: Array, eps: Array, level: Level) -> Array:
    """x_0 = (x_t - sigma eps) / alpha (Ho et al. 2020, eq. 15)."""
    level = level.like(x_t)
    return (x_t - level.sigma * eps) / level.alpha


def eps_from_x_0(*, x_t: Array, x_0: Array, level: Level) -> Array:
    """eps = (x_t - alpha x_0) / sigma."""
    level = level.like(x_t)
    return (x_t - level.alpha * x_0) / level.sigma


def network_output(model: ModelFn, x_t: Array, level: Level, context: Context | None, *, kind: PredictionType) -> Array:
    """What the network says of x_t [b ...] at a level. EDM's is shown x_t at the variance 1 (Karras et al. 2022)."""
    if kind == "edm":
        x_t = x_t * coefficient_like(1 / jnp.sqrt((level.alpha * DATA_STD) ** 2 + level.sigma**2), x_t)
    return model(x_t, jnp.broadcast_to(level.t, x_t.shape[:1]), context)


def split_output(output: Array, x_t: Array) -> tuple[Array, Array | None]:
    """The prediction, and the half of the channels that is about its variance, where the output has twice as many."""
    if output.shape == x_t.shape:
        return output, None
    channels = x_t.shape[-1]
    return output[..., :channels], output[..., channels:]


def denoiser(model: ModelFn, schedule: NoiseSchedule, *, prediction_type: PredictionType = "eps") -> DenoiseFn:
    """The DenoiseFn of a model: where model and schedule meet.

    prediction_type says what the model's output is. One with twice the channels of x_t has a second half about the
    variance of the reverse step, which becomes ``Prediction.variance``.
    """
    if prediction_type not in READINGS:
        raise InputError(f"prediction_type {prediction_type!r} is not one of {', '.join(READINGS)}")
    if prediction_type == "posterior_mean" and schedule.num_train_timesteps is None:
        raise InputError("prediction_type 'posterior_mean' needs a schedule of steps, and with them a step before")

    def denoise_fn(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
        before = schedule.previous_level(level.t) if prediction_type == "posterior_mean" else None
        output, variance = split_output(network_output(model, x_t, level, context, kind=prediction_type), x_t)
        prediction = predict(output, prediction_type, x_t=x_t, level=level, level_s=before)
        return prediction._replace(variance=variance)

    return denoise_fn
