"""The codec of latent diffusion: what diffuses is what a frozen autoencoder makes of images (Rombach et al. 2022)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from marble.conditioning import latents
from marble.conditioning.latents import Origin
from marble.convert.latents import open_autoencoder
from marble.data.examples import Examples
from marble.errors import InputError
from marble.models.tiny_autoencoder import TinyAutoencoder
from marble.schema import DTYPES, Reading, Section
from marble.typing import Array, Batch, ImageSpec


@dataclasses.dataclass(frozen=True)
class AutoencoderWords:
    """The section ``autoencoder`` of a config."""

    path: str
    """The folder of the autoencoder, with config.json and weights."""
    scale: float | None = None
    """What latents are multiplied by before they diffuse; None is what its config says."""
    cache: str | None = None
    """A folder in which latents are kept: each image is encoded once, before the first step. None encodes in each."""


@struct.dataclass
class Autoencoder:
    """x_0 = scale * (what the encoder says of the image)."""

    params: Any
    model: nn.Module = struct.field(pytree_node=False)
    """An ``AutoencoderKL`` or a ``TinyAutoencoder``."""
    image: ImageSpec = struct.field(pytree_node=False)
    scale: float = struct.field(pytree_node=False, default=1.0)
    path: str = struct.field(pytree_node=False, default="")
    """Where it is from, for messages."""
    cache: str | None = struct.field(pytree_node=False, default=None)
    """Where latents are kept; see ``marble.conditioning.latents``."""

    sections: ClassVar[Mapping[str, Section]] = {
        "autoencoder": Section({"dtype": DTYPES}, (AutoencoderWords,)),
    }

    @classmethod
    def build(cls, reading: Reading, image: ImageSpec) -> "Autoencoder":
        """The codec of a config for these images; it reads the autoencoder's weights."""
        words = reading.make("autoencoder", AutoencoderWords)
        model, params, scale = open_autoencoder(words.path, dtype=reading.named("autoencoder", "dtype"))
        scale = scale if words.scale is None else words.scale
        if not scale > 0:
            raise InputError(f"autoencoder.scale={scale} must be above 0")
        if image.shape[-1] != model.image_channels:
            raise InputError(
                f"images of {image.shape[-1]} channels, and the autoencoder of {words.path} reads "
                f"{model.image_channels}: give another"
            )
        return cls(params, model, image, scale, words.path, words.cache).resized(*image.shape[:2])

    @property
    def factor(self) -> int:
        """How much smaller the sides of latents are."""
        levels = self.model.num_blocks if isinstance(self.model, TinyAutoencoder) else self.model.channel_mult
        return 2 ** (len(levels) - 1)

    @property
    def spec(self) -> ImageSpec:
        """That of the latents."""
        height, width, _ = self.image.shape
        return ImageSpec((height // self.factor, width // self.factor, self.model.latent_channels), levels=None)

    def encode(self, images: Array, keys: Array | None = None) -> Array:
        """scale * z, z ~ q(z | image) with each image's draw from its own key, or the mean of it without keys."""
        return self.drawn(self.moments(images), keys)

    def of_batch(self, batch: Batch, keys: Array) -> Array:
        """x_0 of a batch's images, or of the moments that were kept of them."""
        return self.drawn(batch["latent"], keys) if "latent" in batch else self.encode(batch["image"], keys)

    def moments(self, images: Array) -> Array:
        """What the encoder says of images: mean and log-variance of z [b h' w' 2 c'], of a tiny one z [b h' w' c']."""
        found = self.model.apply({"params": self.params}, images, method="encode")
        return found if isinstance(self.model, TinyAutoencoder) else jnp.concatenate(found, axis=-1)

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """Of an image's moments."""
        height, width, channels = self.spec.shape
        return height, width, channels if isinstance(self.model, TinyAutoencoder) else 2 * channels

    def drawn(self, moments: Array, keys: Array | None) -> Array:
        """scale * z of moments, drawn with keys [b], or the mean without."""
        if isinstance(self.model, TinyAutoencoder):
            return self.scale * moments
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if keys is None:
            return self.scale * mean
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
        return self.scale * (mean + jnp.exp(0.5 * log_variance) * noise)

    def cached(self, examples: Examples, origin: Origin | None) -> Examples:
        """The examples with the latents of the cache, which is made first; as they are without one."""
        if self.cache is None or origin is None:
            return examples
        return latents.cached(self.cache, self, examples, origin)

    def decode(self, x_0: Array) -> Array:
        """The images of latents."""
        return self.model.apply({"params": self.params}, x_0 / self.scale, method="decode")

    def resized(self, height: int, width: int) -> "Autoencoder":
        """The codec of images of another size, multiples of ``factor``."""
        if height % self.factor or width % self.factor:
            raise InputError(f"images of {height} x {width}: the autoencoder takes multiples of {self.factor}")
        return self.replace(image=self.image._replace(shape=(height, width, self.image.shape[-1])))
