"""The codec of pixels: what diffuses is the image."""

import dataclasses

from marble.typing import Array, ImageSpec


@dataclasses.dataclass(frozen=True)
class Identity:
    """x_0 is the image."""

    image: ImageSpec

    @property
    def spec(self) -> ImageSpec:
        """That of the images."""
        return self.image

    def encode(self, images: Array, key: Array) -> Array:
        """The images."""
        del key
        return images

    def decode(self, x_0: Array) -> Array:
        """x_0."""
        return x_0
