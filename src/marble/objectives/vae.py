"""The objective of a variational autoencoder: the negative ELBO, in bits a dimension."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marble import vae
from marble.data.preprocess import example_keys
from marble.models import VAE
from marble.objectives.objective import Given, Plain, refuse_guides
from marble.parallel import WHOLE, Across, DeviceMapping
from marble.pipelines import VAEPipeline, VAESamplingConfig
from marble.sampling import noise_like
from marble.schema import DTYPES, Reading, Section
from marble.training.state import no_sum
from marble.training.step import LossFn
from marble.typing import Array, Batch, ImageSpec

LIKELIHOODS = {"discretised_logistic": vae.DISCRETISED_LOGISTIC, "gaussian": vae.GAUSSIAN}


@dataclasses.dataclass(frozen=True)
class VariationalAutoencoder(Plain):
    """A variational autoencoder's."""

    model: VAE
    likelihood: vae.Likelihood
    image: ImageSpec
    sampling: VAESamplingConfig

    keys = ()
    sections: ClassVar[Mapping[str, Section]] = {
        "model": Section({"name": {"vae": VAE}, "dtype": DTYPES}, ("name",)),
        "vae": Section({"likelihood": LIKELIHOODS}),
        "sampling": Section(constructors=(VAESamplingConfig,)),
    }

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "VariationalAutoencoder":
        """The objective of a config."""
        dtype = reading.named("model", "dtype")
        return cls(
            model=reading.make("model", "name", dtype=dtype, image_shape=given.image.shape),
            likelihood=reading.named("vae", "likelihood"),
            image=given.image,
            sampling=reading.make("sampling", VAESamplingConfig),
        )

    def model_inputs(self) -> tuple[Any, ...]:
        """Arguments of the model for one image."""
        return (jnp.zeros((1, *self.image.shape), jnp.float32),)

    def init_params(self, key: Array) -> Any:
        """The model's initial parameters."""
        return self.model.init(key, *self.model_inputs())["params"]

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss, in training with dropout."""
        return vae_loss_fn(self.model, self.likelihood, self.image.levels, train=train)

    def sums(self) -> Mapping[str, Array]:
        """The metrics of the loss over nothing."""
        return {name: no_sum() for name in ("reconstruction", "kl", "count")}

    def log(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The two parts of the loss."""
        return {name: float(sums[name] / sums["count"]) for name in ("reconstruction", "kl")}

    def loss_and_count(self, sums: Mapping[str, Any]) -> tuple[Any, Any]:
        """The sum of the loss over the images of such sums, and their number."""
        return sums["reconstruction"] + sums["kl"], sums["count"]

    def pipeline(
        self, params: Any, *, mapping: DeviceMapping, guide: Any = None, classifier: Any = None
    ) -> VAEPipeline:
        """This model with these parameters; nothing guides it."""
        refuse_guides("a variational autoencoder", guide, classifier)
        return VAEPipeline(
            model=self.model,
            params=params,
            likelihood=self.likelihood,
            image=self.image,
            config=self.sampling,
            mapping=mapping,
        )

    def grid(self, pipe: VAEPipeline, params: Any, held_out: Any, *, num: int, seed: int) -> np.ndarray:
        """Images from the prior."""
        return pipe.sample(num, seed=seed, params=params)


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
