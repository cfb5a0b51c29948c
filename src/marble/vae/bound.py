"""The bound that a variational autoencoder maximises (Kingma & Welling 2014), and a tighter one of the same parts.

The model draws a latent z ~ p(z) = N(0, I) and then the image, x ~ p(x | z). The encoder's q(z | x) says which z an
image may have come from, and for every q

    log p(x) = E_q[log p(x, z) - log q(z | x)] + KL(q(z | x) || p(z | x))

so the first term, the ELBO, is at most log p(x). Inside it stands the joint p(x, z) = p(x | z) p(z); split there it is

    ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z))                          elbo, prior_kl

The same draws weigh the images of z by importance, and their mean is an unbiased estimate of p(x), the logarithm of
which is a bound again, rising with the number of draws to log p(x) (Burda et al. 2016):

    E log (1/K) sum_k w_k,    w_k = p(x | z_k) p(z_k) / q(z_k | x)           importance_weighted, log_weight

x is [b ...], z [b d]; all is in nats, and each image's own: [b].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.typing import Array


class Encoding(NamedTuple):
    """q(z | x) = N(mean, diag(exp(log_variance))), both [b d]."""

    mean: Array
    log_variance: Array


def decoder_input(encoding: Encoding, noise: Array) -> Array:
    """z = mean + deviation * noise ~ q(z | x) for noise ~ N(0, I) [b d] (Kingma & Welling 2014, section 2.4)."""
    return encoding.mean + jnp.exp(0.5 * encoding.log_variance) * noise


def prior_kl(encoding: Encoding) -> Array:
    """KL(q(z | x) || N(0, I)) = sum (mean² + variance - 1 - log variance) / 2 (Kingma & Welling 2014, appendix B)."""
    mean, log_variance = encoding
    return 0.5 * (mean**2 + jnp.expm1(log_variance) - log_variance).sum(axis=-1)


def elbo(log_likelihood: Array, encoding: Encoding) -> Array:
    """log p(x | z) - KL(q(z | x) || p(z)), z ~ q(z | x): in expectation the ELBO (Kingma & Welling 2014, eq. 7).

    log_likelihood [b] is log p(x | z), summed over the image.
    """
    return log_likelihood - prior_kl(encoding)


def log_weight(log_likelihood: Array, encoding: Encoding, noise: Array) -> Array:
    """log w = log p(x | z) + log p(z) - log q(z | x), z = decoder_input(encoding, noise) (Burda et al. 2016, eq. 7)."""
    z = decoder_input(encoding, noise)
    # The two Gaussians' factors of 2 pi cancel, and what q's exponent holds is the noise itself.
    return log_likelihood + 0.5 * (noise**2 - z**2 + encoding.log_variance).sum(axis=-1)


def importance_weighted(log_weights: Array) -> Array:
    """log (1/K) sum_k w_k of log-weights [K b]: in expectation a bound that rises with K (Burda et al. 2016, eq. 8)."""
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])
