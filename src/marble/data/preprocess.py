"""Pixels to the numbers that diffuse and back, inside the compiled step."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from marble.typing import Array, Batch


def prepare_batch(batch: Mapping[str, Array], key: Array, *, levels: int, flips: bool) -> Batch:
    """The loader's uint8 images as float32 in [-1, 1], each flipped left to right half of the time if flips.

    Of images that were encoded, ``latent`` [b f h w m], it is one of the two that were kept of each, or the first.
    """
    if "latent" in batch:
        latent = batch["latent"]
        side = mirrored(example_keys(key, batch)).astype(jnp.int32) if flips else jnp.zeros(len(latent), jnp.int32)
        return {**batch, "latent": latent[jnp.arange(len(latent)), side]}
    image = to_float(batch["image"], levels)
    return {**batch, "image": flip(image, example_keys(key, batch)) if flips else image}


def example_keys(key: Array, batch: Batch) -> Array:
    """One key an image [b], by its position in the global batch: the same on any number of devices."""
    return jax.vmap(partial(jax.random.fold_in, key))(batch["index"])


def to_float(image: Array, levels: int) -> Array:
    """x_0 = 2 image / (levels - 1) - 1: integers 0..levels-1 as float32 in [-1, 1], the ends exact."""
    return (2 * jnp.asarray(image, jnp.float32) - (levels - 1)) / (levels - 1)


def to_uint8(x: Array, levels: int) -> Array:
    """The nearest of the data's levels to x, clipped to [-1, 1], stretched to 0..255.

    With 256 levels this is round(127.5 (x + 1)).
    """
    x = jnp.clip(jnp.asarray(x, jnp.float32), -1, 1)
    level = jnp.round((x + 1) * ((levels - 1) / 2))
    return jnp.round(level * 255 / (levels - 1)).astype(jnp.uint8)


def flip(images: Array, keys: Array) -> Array:
    """Images [b h w c], each mirrored left to right with probability 1/2 drawn from its own key [b]."""
    return jnp.where(mirrored(keys)[:, None, None, None], images[:, :, ::-1, :], images)


def mirrored(keys: Array) -> Array:
    """Which images [b] are: each with probability 1/2, by its own key."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(0.5)))(keys)
