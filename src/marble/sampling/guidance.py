"""Wrappers of a DenoiseFn that change what it says: guidance and thresholds. They compose, one around the other.

All guidance is one thing, to go further along the way from a prediction to a better one (``extrapolate``): from no
context to the context (classifier-free), from a weak model to a strong one (autoguidance), or along a classifier's
gradient. Scales and intervals are arrays: another value is the same program.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from marble.diffusion.prediction import PredictionType, eps_from_x_0, predict, read, x_0_from_eps
from marble.typing import Array, Context, DenoiseFn, Level, Prediction, coefficient_like

NO_INTERVAL = (0.0, jnp.inf)
"""Guidance at every noise level."""


def extrapolate(origin: Prediction, target: Prediction, scale: Array) -> Prediction:
    """origin + scale (target - origin): 0 is origin, 1 target, more goes past it. The variance is the target's."""

    def towards(a: Array, b: Array) -> Array:
        return a + coefficient_like(scale, a) * (b - a)

    return Prediction(towards(origin.x_0, target.x_0), towards(origin.eps, target.eps), target.variance)


def guided(
    denoise_fn: DenoiseFn, origin_fn: DenoiseFn, scale: Array, *, interval: tuple[Array, Array] = NO_INTERVAL
) -> DenoiseFn:
    """origin + scale (prediction - origin) where sigma / alpha is in the interval, else the prediction alone.

    Where the scale is 1 for the whole batch, origin_fn is not called. scale is a number or one an image [b]. With a
    worse model as origin_fn it is autoguidance (Karras et al. 2024); the interval is Kynkäänniemi et al. 2024.
    """

    def guided_fn(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
        target = denoise_fn(x_t, level, context)
        noise = level.sigma / level.alpha
        scale_here = jnp.where((noise >= interval[0]) & (noise <= interval[1]), scale, 1.0)
        return jax.lax.cond(
            jnp.all(scale_here == 1),
            lambda: target,
            lambda: extrapolate(origin_fn(x_t, level, context), target, scale_here),
        )

    return guided_fn


def classifier_free(
    denoise_fn: DenoiseFn,
    scale: Array,
    *,
    null_context: Context,
    interval: tuple[Array, Array] = NO_INTERVAL,
) -> DenoiseFn:
    """eps(x_t, null) + scale (eps(x_t, context) - eps(x_t, null)) (Ho & Salimans 2022, with scale = 1 + w).

    null_context takes the place of those keys of the context: 1 is the conditional model, and does not ask the
    other; 0 is the unconditional one.
    """

    def unconditional(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
        return denoise_fn(x_t, level, {**(context or {}), **null_context})

    return guided(denoise_fn, unconditional, scale, interval=interval)


def classifier_guided(
    denoise_fn: DenoiseFn, log_prob_fn: Callable[[Array, Level, Context | None], Array], scale: Array
) -> DenoiseFn:
    """eps - scale sigma grad log p(context | x_t) (Dhariwal & Nichol 2021, eq. 14).

    log_prob_fn(x_t, level, context) -> [b], each image's from itself alone, trained on noisy images.
    """

    def guided_fn(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
        prediction = denoise_fn(x_t, level, context)
        gradient = jax.grad(lambda x: log_prob_fn(x, level, context).sum())(x_t)
        eps = prediction.eps - coefficient_like(scale * level.sigma, x_t) * gradient
        return prediction._replace(x_0=x_0_from_eps(x_t=x_t, eps=eps, level=level), eps=eps)

    return guided_fn


def rescaled(
    denoise_fn: DenoiseFn, guided_fn: DenoiseFn, share: Array, *, prediction_type: PredictionType = "eps"
) -> DenoiseFn:
    """guided_fn with the standard deviation, image by image, that denoise_fn has (Lin et al. 2024, eq. 15-16).

    The deviations are those of the model's own output, prediction_type; share, 0 to 1, says how much of the change is
    made, and 0 is guided_fn to the last bit. denoise_fn is what guided_fn wraps: compiled, the two share its call.
    """

    def rescaled_fn(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
        plain, strong = (fn(x_t, level, context) for fn in (denoise_fn, guided_fn))
        axes = tuple(range(1, x_t.ndim))
        output = read(strong, prediction_type, level=level)
        wanted = read(plain, prediction_type, level=level).std(axes, keepdims=True)
        factor = 1 + jnp.asarray(share, x_t.dtype) * (wanted / output.std(axes, keepdims=True) - 1)
        changed = predict(factor * output, prediction_type, x_t=x_t, level=level)
        x_0, eps = (jnp.where(share == 0, a, b) for a, b in zip(strong[:2], changed[:2], strict=True))
        return Prediction(x_0, eps, strong.variance)

    return rescaled_fn


def static_threshold(denoise_fn: DenoiseFn, *, keep_eps: bool = True) -> DenoiseFn:
    """The predicted x_0 clipped to [-1, 1], the range of images (Ho et al. 2020's sampler).

    eps stays the model's, or is derived again from the clipped x_0: what an ancestral step reads does not depend on
    it, what DDIM does.
    """
    return _thresholded(denoise_fn, lambda x_0: jnp.clip(x_0, -1, 1), keep_eps)


def dynamic_threshold(denoise_fn: DenoiseFn, *, quantile: Array = 0.995, keep_eps: bool = True) -> DenoiseFn:
    """The predicted x_0 clipped to its own quantile of |x_0|, if above 1, and divided by it (Saharia et al. 2022)."""

    def threshold(x_0: Array) -> Array:
        size = jnp.quantile(jnp.abs(x_0), quantile, axis=tuple(range(1, x_0.ndim)), keepdims=True)
        size = jnp.maximum(size, 1)
        return jnp.clip(x_0, -size, size) / size

    return _thresholded(denoise_fn, threshold, keep_eps)


def _thresholded(denoise_fn: DenoiseFn, threshold: Callable[[Array], Array], keep_eps: bool) -> DenoiseFn:
    def thresholded_fn(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
        prediction = denoise_fn(x_t, level, context)
        x_0 = threshold(prediction.x_0)
        eps = prediction.eps if keep_eps else eps_from_x_0(x_t=x_t, x_0=x_0, level=level)
        return prediction._replace(x_0=x_0, eps=eps)

    return thresholded_fn
