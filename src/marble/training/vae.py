"""The objective of a variational autoencoder: the negative ELBO, in bits a dimension."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from marble import vae
from marble.models import VAE
from marble.sampling import noise_like
from marble.training.objectives import LossFn, example_keys
from marble.typing import Array, Batch


def vae_loss_fn(model: VAE, likelihood: vae.Likelihood, levels: int, *, train: bool = True) -> LossFn:
    """-ELBO by one draw of z an image (Kingma & Welling 2014, eq. 8 and 10); dropout is on if train.

    The metrics are sums over the images: ``reconstruction``, -log p(x | z), and ``kl``, which add up to the loss, all
    in bits a dimension; and ``count``. Images with 0 in an optional ``mask`` [b] of the batch don't count in them.
    """

    def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        noise_key, dropout_key = jax.random.split(key)
        x = batch["image"]
        rngs = {"dropout": jax.random.fold_in(dropout_key, batch["index"][0])}

        def apply(half: str, inputs: Array) -> tuple[Array, Array]:
            return model.apply({"params": params}, inputs, train=train, rngs=rngs, method=half)

        encoding = vae.Encoding(*apply("encode", x))
        z = vae.decoder_input(encoding, noise_like(example_keys(noise_key, batch), encoding.mean))
        log_likelihood = likelihood.objective(x, *apply("decode", z), levels).sum(axis=(1, 2, 3))
        bits = 1 / (math.log(2) * math.prod(x.shape[1:]))
        reconstruction, kl = -log_likelihood * bits, vae.prior_kl(encoding) * bits
        mask = batch.get("mask", jnp.ones(x.shape[0], jnp.float32))
        sums = {"reconstruction": reconstruction @ mask, "kl": kl @ mask, "count": mask.sum()}
        return -vae.elbo(log_likelihood, encoding).mean() * bits, sums

    return loss_fn
