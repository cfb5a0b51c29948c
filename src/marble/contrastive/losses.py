"""Losses of pairs: each image's text is to be told from the other texts of the batch, and each text's image likewise.

With unit embeddings f of n images and g of their texts, and a temperature,

    softmax    -(1/2) mean_i [log p(g_i | f_i) + log p(f_i | g_i)],   p(g_j | f_i) ~ exp(scale f_i.g_j)    Radford 2021
    sigmoid    -mean_i sum_j log s(z_ij (scale f_i.g_j + bias)),      z_ij = 1 of pairs, else -1           Zhai 2023

Equal texts are not told from each other: all images of one text are pairs of it, and where the softmax has several to
find it takes the mean of their log-probabilities (Yang et al. 2022, eq. 3).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.typing import Array


class Pairs(NamedTuple):
    """Embeddings of length 1: rows [b d] of a part of the batch, and those of all of it [n d]."""

    images: Array
    texts: Array
    all_images: Array
    all_texts: Array
    is_pair: Array
    """[b n] whether image or text i of the part and j of all belong together; it is the same both ways."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Array, bound: float) -> Array:
    """min(x, bound), whose gradient leads back: of an x above the bound that part is kept which lowers it.

    The gradient of a plain minimum is 0 there, and what a step had taken over the bound would stay above it for ever.
    """
    return jnp.minimum(x, bound)


def _at_most_fwd(x: Array, bound: float) -> tuple[Array, Array]:
    return at_most(x, bound), x


def _at_most_bwd(bound: float, x: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where((x < bound) | (gradient > 0), gradient, 0.0),)


at_most.defvjp(_at_most_fwd, _at_most_bwd)


def softmax(pairs: Pairs, scale: Array) -> Array:
    """The loss [b] of each pair of the part (Radford et al. 2021, figure 3)."""
    ways = (pairs.images @ pairs.all_texts.T, pairs.texts @ pairs.all_images.T)
    return 0.5 * sum(_cross_entropy(scale * way, pairs.is_pair) for way in ways)


def sigmoid(pairs: Pairs, scale: Array, bias: Array) -> Array:
    """The loss [b] of each image of the part (Zhai et al. 2023, eq. 1)."""
    sign = jnp.where(pairs.is_pair, 1.0, -1.0)
    return -jax.nn.log_sigmoid(sign * (scale * pairs.images @ pairs.all_texts.T + bias)).sum(axis=1)


def _cross_entropy(logits: Array, is_pair: Array) -> Array:
    """-mean over an image's pairs of their log-probability."""
    log_p = jax.nn.log_softmax(logits, axis=1)
    return -jnp.where(is_pair, log_p, 0).sum(axis=1) / is_pair.sum(axis=1)
