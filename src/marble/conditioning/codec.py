"""The protocol of a codec: the space that diffuses, and the way there and back."""

from typing import Protocol

from marble.typing import Array, ImageSpec


class Codec(Protocol):
    """Maps images [b h w c] float32 in [-1, 1] to x_0 [b h' w' c'], and back; pure functions, within a program."""

    image: ImageSpec
    """Of the images."""
    spec: ImageSpec
    """Of x_0: the shape and the levels of the space that diffuses."""

    def encode(self, images: Array, key: Array) -> Array:
        """x_0 of images; key is for a codec that draws."""

    def decode(self, x_0: Array) -> Array:
        """The images of x_0."""
