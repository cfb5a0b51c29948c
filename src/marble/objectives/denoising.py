"""The loss function of a diffusion model: what Algorithm 1 of Ho et al. 2020 minimises.

Where t is drawn by importance, it takes the state's ``loss_history`` as a fourth argument.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.conditioning import Conditioner, Unconditional
from marble.data.preprocess import example_keys
from marble.diffusion import (
    NoiseSchedule,
    PredictionType,
    denoising_loss,
    hybrid_share,
    mean_held,
    q_sample,
    vlb_term,
    weighting,
)
from marble.diffusion.prediction import network_output, predict, split_output
from marble.diffusion.process import VarianceType
from marble.diffusion.timesteps import LossHistory
from marble.diffusion.weighting import Weighting
from marble.objectives.diffusion_config import FIXED
from marble.objectives.draws import DrawOfT, TimestepSampling
from marble.sampling import noise_like
from marble.training.step import LossFn
from marble.typing import Array, Batch, Context, Level


def diffusion_loss_fn(
    model: nn.Module,
    schedule: NoiseSchedule,
    *,
    prediction_type: PredictionType = "eps",
    variance_type: VarianceType = "fixed_small",
    weighting: Weighting = weighting.simple,
    timestep_sampling: TimestepSampling = "uniform",
    batch_size: int | None = None,
    levels: int = 256,
    conditioner: Conditioner = Unconditional(),  # noqa: B008
    self_conditioning: bool = False,
    train: bool = True,
) -> LossFn:
    """Algorithm 1 of Ho et al. 2020: t drawn, noise ~ N(0, I), the error of the prediction; dropout is on if train.

    The batch's ``image`` is x_0; conditioner says what else the model is told of it. With self_conditioning, half of
    the images come with the model's own estimate of x_0 (Chen et al. 2022). A learned variance_type, for outputs of
    twice the image's channels, adds ``vlb_term``, for which levels are the data's. batch_size is the global one, which
    draws of t other than the uniform need. The metrics are those of ``DrawOfT``.
    """
    draw = DrawOfT(timestep_sampling, schedule.num_train_timesteps, batch_size)

    def loss_fn(
        params: Any, batch: Batch, key: Array, history: LossHistory | None = None
    ) -> tuple[Array, dict[str, Any]]:
        t_key, noise_key, context_key, dropout_key = jax.random.split(key, 4)
        x_0 = batch["image"]
        t, importance = draw(t_key, batch, history)
        noise = noise_like(example_keys(noise_key, batch), x_0)
        level, x_t = schedule.level(t), q_sample(schedule, x_0, t, noise)
        context = dict(conditioner.context(batch, context_key, train=train))
        apply = bound_model(model, params, batch, dropout_key, train=train)
        before = schedule.previous_level(t) if prediction_type == "posterior_mean" else None
        reading = dict(level=level, level_s=before)
        if self_conditioning:
            estimate = own_estimate(apply, x_t, context, prediction_type, **reading)
            context["x_0"] = shown_to_half(estimate, example_keys(jax.random.fold_in(key, 4), batch))
        output, variance = split_output(network_output(apply, x_t, level, context, kind=prediction_type), x_t)
        losses = denoising_loss(output, prediction_type, x_0=x_0, noise=noise, weight=weighting(schedule, t), **reading)
        if variance_type not in FIXED:
            prediction = mean_held(predict(output, prediction_type, x_t=x_t, **reading)._replace(variance=variance))
            term = vlb_term(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type=variance_type, levels=levels)
            losses += hybrid_share(schedule) * term
        return (importance * losses).mean(), draw.metrics(batch, t, importance, losses, history)

    return loss_fn


def bound_model(
    model: nn.Module, params: Any, batch: Batch, dropout_key: Array, *, train: bool
) -> Callable[..., Array]:
    """model(x_t, t, context) with its parameters and dropout's key, one a micro-batch."""
    rngs = {"dropout": jax.random.fold_in(dropout_key, batch["index"][0])}

    def apply(x_t: Array, t: Array, context: Context) -> Array:
        return model.apply({"params": params}, x_t, t, context or None, train=train, rngs=rngs)

    return apply


def own_estimate(
    apply: Callable[..., Array],
    x_t: Array,
    context: Context,
    prediction_type: PredictionType,
    *,
    level: Level,
    level_s: Level | None,
) -> Array:
    """The x_0 that the model predicts without an estimate, cut to the range of images; no gradient goes into it."""
    output, _ = split_output(network_output(apply, x_t, level, context, kind=prediction_type), x_t)
    prediction = predict(output, prediction_type, x_t=x_t, level=level, level_s=level_s)
    return jax.lax.stop_gradient(jnp.clip(prediction.x_0, -1, 1))


def shown_to_half(estimate: Array, keys: Array) -> Array:
    """The estimates [b ...], each or zeros with probability one half, from its own key of keys [b]."""
    is_shown = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(0.5)))(keys)
    return jnp.where(is_shown.reshape(-1, *[1] * (estimate.ndim - 1)), estimate, 0.0)
