"""How far decoded images are from theirs: by pixels, and by what a trained network sees in them.

All are each image's own, [b], means over the places and channels.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from marble.typing import Array

EPSILON = 1e-10


def absolute(images: Array, originals: Array) -> Array:
    """L1: the mean of |x^ - x| over [b h w c]."""
    return jnp.abs(images - originals).mean(axis=(1, 2, 3))


def squared(images: Array, originals: Array) -> Array:
    """L2: the mean of (x^ - x)² over [b h w c]."""
    return jnp.square(images - originals).mean(axis=(1, 2, 3))


PIXEL_LOSSES: Mapping[str, Callable[[Array, Array], Array]] = {"l1": absolute, "l2": squared}


def perceptual(images: Sequence[Array], originals: Sequence[Array]) -> Array:
    """The sum over layers [b h w c] of the mean over places of |f^ - f|², each f of length 1 over its channels.

    (Zhang et al. 2018, eq. 1, with all channels weighed alike, for their weights are learned from people's answers.)
    """
    return sum(
        jnp.square(_unit(f_hat) - _unit(f)).sum(axis=-1).mean(axis=(1, 2))
        for f_hat, f in zip(images, originals, strict=True)
    )


def _unit(x: Array) -> Array:
    # The root is of a sum that is never 0: its gradient there has no number.
    return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + EPSILON)
