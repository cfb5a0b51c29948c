"""What is minimised: loss functions ``loss_fn(params, batch, key) -> (loss, metrics)``.

Everything random in a step but dropout is drawn for each image by a key made of the step's key and the image's position
in the global batch, so the draws are the same on any number of devices and for any number of micro-batches. Dropout is
drawn for a whole micro-batch at once: the same on any number of devices.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.data.preprocess import flip, to_float
from marble.diffusion import Schedule, eps_loss, timesteps
from marble.sampling import noise_like
from marble.training.state import NUM_T_BINS
from marble.typing import Array, Batch

LossFn = Callable[[Any, Batch, Array], tuple[Array, dict[str, Array]]]


def example_keys(key: Array, batch: Batch) -> Array:
    """One key an image [b]."""
    return jax.vmap(partial(jax.random.fold_in, key))(batch["index"])


def prepare_batch(batch: Mapping[str, Array], key: Array, *, levels: int, flips: bool) -> Batch:
    """The loader's uint8 images as float32 in [-1, 1], each flipped left to right half of the time if flips."""
    image = to_float(batch["image"], levels)
    return {**batch, "image": flip(image, example_keys(key, batch)) if flips else image}


def diffusion_loss_fn(
    model: nn.Module,
    schedule: Schedule,
    *,
    weights: Array | None = None,
    label_dropout: float = 0.0,
    train: bool = True,
) -> LossFn:
    """Algorithm 1 of Ho et al. 2020: t uniform, noise ~ N(0, I), the eps loss; dropout is on if train.

    A model with classes is given the labels, each replaced by the null class with probability label_dropout. The
    metrics are sums over the images by bins of t, ``loss_by_t`` and ``count_by_t`` [NUM_T_BINS]; images with 0 in an
    optional ``mask`` [b] of the batch don't count in them.
    """

    def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        t_key, noise_key, label_key, dropout_key = jax.random.split(key, 4)
        x_0, total = batch["image"], schedule.num_train_timesteps
        t = timesteps.uniform(example_keys(t_key, batch), total)
        noise = noise_like(example_keys(noise_key, batch), x_0)
        rngs = {"dropout": jax.random.fold_in(dropout_key, batch["index"][0])}

        def apply(x_t, t, context):
            return model.apply({"params": params}, x_t, t, context, train=train, rngs=rngs)

        context = None
        if model.num_classes is not None:
            is_null = jax.vmap(lambda k: jax.random.bernoulli(k, label_dropout))(example_keys(label_key, batch))
            context = {"label": jnp.where(is_null, model.num_classes, batch["label"])}
        losses = eps_loss(schedule, apply, x_0=x_0, t=t, noise=noise, context=context, weights=weights)
        bins = jax.nn.one_hot(t * NUM_T_BINS // total, NUM_T_BINS)
        if "mask" in batch:
            bins = bins * batch["mask"][:, None]
        return losses.mean(), {"loss_by_t": losses @ bins, "count_by_t": bins.sum(0)}

    return loss_fn
