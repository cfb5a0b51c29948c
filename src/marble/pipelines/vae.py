"""A trained variational autoencoder in use: images from the prior, latents of images, bits per dimension."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from marble import vae
from marble.data.examples import Examples
from marble.data.preprocess import to_float, to_uint8
from marble.errors import InputError
from marble.models import VAE
from marble.parallel import DeviceMapping, ParallelConfig
from marble.pipelines.copies import Copyable
from marble.pipelines.measured import Measured, MeasureOptions, num_images
from marble.pipelines.rows import fitting_batch_size, image_indices, integer_images, over_batches, whole
from marble.pipelines.tally import Estimate, standard_error
from marble.sampling import fold_keys, image_keys, noise_like
from marble.typing import Array, ImageSpec


@dataclasses.dataclass(frozen=True)
class VAESamplingConfig:
    """How a pipeline samples."""

    pixels: Literal["mean", "drawn"] = "mean"
    """Whether an image is the mean of p(x | z), which is smooth, or drawn from it, as the model says."""
    batch_size: int = 64
    """Images in one call of a compiled function; a last, smaller batch is padded to it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"sampling.batch_size={self.batch_size} must be at least 1")


class VAEPipeline(Copyable):
    """A variational autoencoder with its parameters: sample, encode, decode, reconstruct, bits_per_dim.

    Images that go in are integers at the data's levels, 0..levels-1, [n h w c], as data sets give them; images that
    come out are uint8 0..255, or float32 in [-1, 1] with as_float. Batches are split over all devices.
    """

    def __init__(
        self,
        *,
        model: VAE,
        params: Any,
        likelihood: vae.Likelihood,
        image: ImageSpec,
        config: VAESamplingConfig,
        mapping: DeviceMapping | None = None,
    ) -> None:
        self.model, self.likelihood, self.image, self.config = model, likelihood, image, config
        self.mapping = mapping or ParallelConfig().open()
        self.params = self.mapping.place(params)
        compiled = self.mapping.compile_rows
        self._sample_batch = compiled(self._draw)
        self._encode_batch = compiled(lambda params, batch: self._encode(params, batch["image"]))
        self._decode_batch = compiled(lambda params, batch: self._apply(params, "decode", batch["z"])[0])
        self._measure_batch = compiled(self._measure)

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        params: Any = None,
        as_float: bool = False,
        progress: bool = False,
        num_frames: int = 0,
        **request: Any,
    ) -> np.ndarray:
        """num images [num h w c] of z ~ N(0, I), the first .. first + num - 1 of the run ``seed``.

        Each depends on (seed, its index) alone. params replaces the pipeline's own. What a diffusion pipeline takes
        beside that, such as steps or num_frames, is an InputError, unless it is None, False or no frames.
        """
        for name, value in {**request, "num_frames": num_frames or None}.items():
            if value is not None and value is not False:
                raise InputError(
                    f"{name}={value} given, but a VAE draws an image in one step, and is told nothing: leave it out"
                )
        rows = {"index": image_indices(num, seed=seed, first=first)}
        images = self._over_batches(
            self._sample_batch, rows, np.uint32(seed), params=params, batch_size=batch_size, progress=progress
        )
        return self._finished(images, as_float)

    def num_steps(self) -> int:
        """One: there is no loop."""
        return 1

    def lower(self, params: Any, *, batch_size: int | None = None) -> jax.stages.Lowered:
        """The program of ``sample`` for shapes of parameters, of a mesh; what it costs is known once it is compiled."""
        size = fitting_batch_size(self.config.batch_size if batch_size is None else batch_size, self.mapping)
        rows = self.mapping.row_shapes({"index": image_indices(size, seed=0, first=0)})
        return self.mapping.jitted_rows(self._draw).lower(params, rows, np.uint32(0))

    def encode(self, images: np.ndarray) -> vae.Encoding:
        """q(z | x) of integer images [n h w c]: mean and log-variance, [n d] each."""
        return self._over_batches(self._encode_batch, {"image": integer_images(images, self.image)})

    def decode(self, z: np.ndarray, *, as_float: bool = False) -> np.ndarray:
        """The means of p(x | z) for latents z [n d], as images [n h w c]."""
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.model.latent_size or not len(z):
            raise InputError(f"latents of shape {list(z.shape)}: this model takes [n {self.model.latent_size}]")
        if not np.isfinite(z).all():
            raise InputError(f"a latent is {z[~np.isfinite(z)][0]}: give finite numbers")
        return self._finished(self._over_batches(self._decode_batch, {"z": z}), as_float)

    def reconstruct(self, images: np.ndarray, *, as_float: bool = False) -> np.ndarray:
        """decode(encode(images).mean)."""
        return self.decode(self.encode(images).mean, as_float=as_float)

    def bits_per_dim(
        self, images: np.ndarray, seed: int = 0, *, num_samples: int = 100, progress: bool = False
    ) -> dict[str, np.ndarray]:
        """Upper bounds of -log2 p(x) / dimensions of integer images [n h w c], and their parts: each [n] float64.

        ``elbo`` is ``reconstruction`` + ``kl``, its mean over num_samples draws of z; ``importance_weighted`` is the
        tighter bound of the same draws, by the exact probabilities of the data's levels. An image's draws depend on
        (seed, its position, the draw) alone; another num_samples compiles nothing.
        """
        if whole("num_samples", num_samples) < 1:
            raise InputError(f"num_samples={num_samples} must be at least 1")
        images = integer_images(images, self.image)
        rows = {"image": images, "index": image_indices(len(images), seed=seed, first=0)}
        terms = self._over_batches(self._measure_batch, rows, np.uint32(seed), np.int32(num_samples), progress=progress)
        bits = 1 / (math.log(2) * math.prod(self.image.shape))
        order = ("reconstruction", "kl", "elbo", "importance_weighted")  # compiled functions sort their names
        return {name: terms[name].astype(np.float64) * bits for name in order}

    def options_unread(self) -> dict[str, str]:
        """The options of ``measure`` that this model does not read, and why."""
        reason = "is for diffusion models, and this is a variational autoencoder"
        return dict.fromkeys(("batch_size", "variance_type", "decoder", "flow"), reason)

    def measure(self, examples: Examples, options: MeasureOptions, *, progress: bool = False) -> Measured:
        """``bits_per_dim`` of these examples, for ``marble evaluate``."""
        num = num_images(examples, options.num)
        images = np.stack([examples[i * len(examples) // num]["image"] for i in range(num)])
        bits = self.bits_per_dim(images, options.seed, progress=progress)
        rows = {n: Estimate(float(b.mean()), float(standard_error(b.var(), num))) for n, b in bits.items()}
        return Measured(num, rows, settings={}, note="", kept={name: e._asdict() for name, e in rows.items()})

    def _over_batches(
        self,
        function: Callable[..., Any],
        rows: dict[str, np.ndarray],
        *arguments: Any,
        params: Any = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Any:
        """function(params, batch, *arguments) of all rows, as arrays on the host."""
        size = self.config.batch_size if batch_size is None else batch_size
        params = self.params if params is None else params
        options = dict(batch_size=size, mapping=self.mapping, progress=progress)
        return over_batches(function, params, rows, *arguments, **options)

    def _apply(self, params: Any, half: str, inputs: Array) -> tuple[Array, Array]:
        return self.model.apply({"params": params}, inputs, method=half)

    def _encode(self, params: Any, image: Array) -> vae.Encoding:
        return vae.Encoding(*self._apply(params, "encode", to_float(image, self.image.levels)))

    def _draw(self, params: Any, batch: dict[str, Array], seed: Array) -> Array:
        z_keys, pixel_keys = jnp.moveaxis(jax.vmap(jax.random.split)(image_keys(seed, batch["index"])), 1, 0)
        z = noise_like(z_keys, jnp.zeros((len(z_keys), self.model.latent_size), jnp.float32))
        mean, log_scale = self._apply(params, "decode", z)
        if self.config.pixels == "mean":
            return mean
        standard = jax.vmap(lambda key: self.likelihood.standard(key, mean.shape[1:], mean.dtype))
        return mean + jnp.exp(log_scale) * standard(pixel_keys)

    def _measure(self, params: Any, batch: dict[str, Array], seed: Array, num_samples: Array) -> dict[str, Array]:
        x, keys = to_float(batch["image"], self.image.levels), image_keys(seed, batch["index"])
        encoding = self._encode(params, batch["image"])

        def add(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            noise = noise_like(fold_keys(keys, k), encoding.mean)
            decoded = self._apply(params, "decode", vae.decoder_input(encoding, noise))
            log_likelihood = self.likelihood.log_prob(x, *decoded, self.image.levels).sum(axis=(1, 2, 3))
            weight = vae.log_weight(log_likelihood, encoding, noise)
            return sums[0] + log_likelihood, jnp.logaddexp(sums[1], weight)

        zeros = jnp.zeros(x.shape[0], x.dtype)
        log_likelihoods, log_weights = jax.lax.fori_loop(0, num_samples, add, (zeros, zeros - jnp.inf))
        reconstruction, kl = -log_likelihoods / num_samples, vae.prior_kl(encoding)
        return {
            "reconstruction": reconstruction,
            "kl": kl,
            "elbo": reconstruction + kl,
            "importance_weighted": jnp.log(num_samples) - log_weights,
        }

    def _finished(self, images: np.ndarray, as_float: bool) -> np.ndarray:
        return np.clip(images, -1, 1) if as_float else np.asarray(to_uint8(images, self.image.levels))
