"""The codec of pixels: what diffuses is the image."""

from collections.abc import Mapping
from typing import ClassVar

from flax import struct

from marble.conditioning.latents import Origin
from marble.data.examples import Examples
from marble.schema import Reading, Section
from marble.typing import Array, Batch, ImageSpec


@struct.dataclass
class Identity:
    """x_0 is the image."""

    image: ImageSpec = struct.field(pytree_node=False)

    sections: ClassVar[Mapping[str, Section]] = {}

    @classmethod
    def build(cls, reading: Reading, image: ImageSpec) -> "Identity":
        """The codec of these images."""
        del reading
        return cls(image)

    @property
    def spec(self) -> ImageSpec:
        """That of the images."""
        return self.image

    def encode(self, images: Array, keys: Array | None = None) -> Array:
        """The images."""
        del keys
        return images

    def of_batch(self, batch: Batch, keys: Array) -> Array:
        """The images."""
        del keys
        return batch["image"]

    def cached(self, examples: Examples, origin: Origin | None) -> Examples:
        """The examples as they are."""
        del origin
        return examples

    def decode(self, x_0: Array) -> Array:
        """x_0."""
        return x_0

    def resized(self, height: int, width: int) -> "Identity":
        """Images of another size."""
        return Identity(self.image._replace(shape=(height, width, self.image.shape[-1])))
