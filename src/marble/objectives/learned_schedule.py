"""The objective of models whose schedule is learned too: the bound in continuous time (Kingma et al. 2021).

    -log p(x_0) <= KL(q(z_1 | x_0) || N(0, I)) - E[log p(x_0 | z_0)] + E[-1/2 log_snr'(t) ||noise - eps||²]

The model and the ends of the curve of log-SNR minimise it. The curve's shape does not change its value, only the
variance of the estimate by one t, and minimises that: the mean square of the last term (Kingma et al. 2021, app. H).
Both gradients come from one pass back through the network, which ends at each image's log-SNR; from there on the
curve is cheap.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.conditioning import Conditioner, Unconditional
from marble.data.preprocess import example_keys
from marble.diffusion import PredictionType, denoising_loss, discretised_gaussian_log_prob
from marble.diffusion.continuous import ContinuousSchedule, from_curve
from marble.diffusion.likelihood import mean_of_image, prior_kl_at
from marble.diffusion.prediction import network_output
from marble.objectives.denoising import bound_model
from marble.objectives.draws import DrawOfT, TimestepSampling
from marble.sampling import noise_like
from marble.training.step import LossFn
from marble.typing import Array, Batch, Level

CURVE = "log_snr"
"""Where the curve's parameters are among the model's."""
SHAPE = "shape"
"""Where among the curve's parameters are those of its shape."""


def schedule_of(curve: nn.Module, params: Any) -> ContinuousSchedule:
    """The schedule of a learned curve with its parameters, which are among the model's."""
    return from_curve(lambda t: curve.apply({"params": params[CURVE]}, t))


def variational_loss_fn(
    model: nn.Module,
    curve: nn.Module,
    *,
    prediction_type: PredictionType = "eps",
    timestep_sampling: TimestepSampling = "uniform",
    batch_size: int | None = None,
    levels: int = 256,
    conditioner: Conditioner = Unconditional(),  # noqa: B008
    train: bool = True,
) -> LossFn:
    """The bound in nats a dimension; params hold the curve's under CURVE, and options are ``diffusion_loss_fn``'s."""
    draw = DrawOfT(timestep_sampling, None, batch_size)

    def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Any]]:
        t_key, noise_key, context_key, dropout_key, clean_key = jax.random.split(key, 5)
        x_0 = batch["image"]
        t, ones = draw(t_key, batch, None)
        noise = noise_like(example_keys(noise_key, batch), x_0)
        context = conditioner.context(batch, context_key, train=train)

        def diffusion_losses(params, log_snr, slope, ends):
            # A straight curve: at a log-SNR only the ends say what the model is told of the time.
            level = from_curve(lambda u: ends[0] + u * (ends[1] - ends[0])).level_at(log_snr)
            at = level.like(x_0)
            apply = bound_model(model, params, batch, dropout_key, train=train)
            output = network_output(apply, at.alpha * x_0 + at.sigma * noise, level, context, kind=prediction_type)
            return denoising_loss(output, prediction_type, x_0=x_0, noise=noise, level=level, weight=-0.5 * slope)

        curve_fn = lambda p, t: curve.apply({"params": p}, t)  # noqa: E731
        diffusion = variational_estimate(diffusion_losses, curve_fn, params, t)
        schedule = schedule_of(curve, params)
        prior = prior_kl_at(schedule.level(jnp.ones((), t.dtype)), x_0) / x_0[0].size
        clean_noise = noise_like(example_keys(clean_key, batch), x_0)
        losses = diffusion + prior + reconstruction_loss(schedule, x_0, clean_noise, levels)
        return losses.mean(), draw.metrics(batch, t, ones, losses, None)

    return loss_fn


def variational_estimate(diffusion_losses: Any, curve_fn: Any, params: Any, t: Array) -> Array:
    """losses [b] = diffusion_losses(params, log_snr, slope, ends) at t [b], with the gradients of this module's text.

    Of their mean, the parameters of the model and the ends of the curve get the gradient; those of the curve's shape
    get that of the mean square.
    """
    of_curve = params[CURVE]
    shape_held = {**of_curve, **jax.lax.stop_gradient({k: v for k, v in of_curve.items() if k == SHAPE})}
    ends_held = {**jax.lax.stop_gradient(of_curve), **{k: v for k, v in of_curve.items() if k == SHAPE}}
    by_ends, by_shape = (_log_snr_and_slope(curve_fn, p, t) for p in (shape_held, ends_held))
    ends = tuple(curve_fn(shape_held, jnp.full((), u, t.dtype)) for u in (0.0, 1.0))
    inputs = (params, *by_ends, ends)
    losses, pull = jax.vjp(diffusion_losses, *jax.lax.stop_gradient(inputs))
    of_params, of_log_snr, of_slope, of_ends = pull(jnp.ones_like(losses))
    squared = lambda gradient: 2 * losses * gradient  # noqa: E731, of each image's loss
    return (
        losses
        + _along((of_params, of_ends), (params, ends)) / len(t)
        + of_log_snr * _moving(by_ends[0])
        + of_slope * _moving(by_ends[1])
        + squared(of_log_snr) * _moving(by_shape[0])
        + squared(of_slope) * _moving(by_shape[1])
    )


def reconstruction_loss(schedule: ContinuousSchedule, x_0: Array, noise: Array, levels: int) -> Array:
    """-log p(x_0 | z_0) of each image [b], in nats a dimension: p is N(z_0 / alpha, (sigma / alpha)²) in bins."""
    level: Level = schedule.level(jnp.zeros((), x_0.dtype)).like(x_0)
    ratio = level.sigma / level.alpha
    return -mean_of_image(discretised_gaussian_log_prob(x_0, x_0 + ratio * noise, ratio**2, levels))


def _log_snr_and_slope(curve_fn: Any, params: Any, t: Array) -> tuple[Array, Array]:
    return jax.jvp(lambda t: curve_fn(params, t), (t,), (jnp.ones_like(t),))


def _moving(x: Any) -> Any:
    """0, with the gradient of x."""
    return jax.tree.map(lambda leaf: leaf - jax.lax.stop_gradient(leaf), x)


def _along(gradient: Any, x: Any) -> Array:
    """0, with that gradient with respect to x."""
    return sum(jnp.vdot(g, m) for g, m in zip(jax.tree.leaves(gradient), jax.tree.leaves(_moving(x)), strict=True))
