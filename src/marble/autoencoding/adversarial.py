"""A discriminator's part in the training of an autoencoder (Esser et al. 2021, section 3.1).

It is told real images from decoded ones by logits D(x) [b h w], and the autoencoder is trained to have its images taken
for real. The two losses of the discriminator are its hinge (Lim & Ye 2017) and its likelihood (Goodfellow et al. 2014).
All are each image's own, [b], the mean over its patches.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from marble.typing import Array

MOST_WEIGHT = 1e4
"""Of the adaptive weight, where the discriminator's gradient is all but nothing."""


def hinge(real: Array, fake: Array) -> Array:
    """(max(0, 1 - D(x)) + max(0, 1 + D(x^))) / 2 of logits [b h w]."""
    return 0.5 * _mean(jax.nn.relu(1 - real)) + 0.5 * _mean(jax.nn.relu(1 + fake))


def likelihood(real: Array, fake: Array) -> Array:
    """(-log s(D(x)) - log(1 - s(D(x^)))) / 2 of logits [b h w], s the logistic function."""
    return 0.5 * _mean(jax.nn.softplus(-real)) + 0.5 * _mean(jax.nn.softplus(fake))


DISCRIMINATOR_LOSSES: Mapping[str, Callable[[Array, Array], Array]] = {"hinge": hinge, "likelihood": likelihood}


def generator_loss(fake: Array) -> Array:
    """-D(x^) of the logits [b h w] of decoded images: what either discriminator's opponent goes down."""
    return -_mean(fake)


def adaptive_weight(of_reconstruction: Array, of_generator: Array, *, epsilon: float = 1e-4) -> Array:
    """|grad L_rec| / (|grad L_gen| + epsilon), at most MOST_WEIGHT (Esser et al. 2021, eq. 7).

    The gradients of the two losses by the decoder's last kernel: weighed so, both pull at it equally.
    """
    weight = jnp.linalg.norm(of_reconstruction) / (jnp.linalg.norm(of_generator) + epsilon)
    return jax.lax.stop_gradient(jnp.minimum(weight, MOST_WEIGHT))


def _mean(x: Array) -> Array:
    return x.mean(axis=(1, 2))
