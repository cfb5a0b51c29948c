"""The protocol of a codec: the space that diffuses, and the way there and back.

A codec is a pytree (``flax.struct.dataclass``): the parameters of its network are its leaves, so that programs take it
as an argument, and all else about it is static.
"""

from typing import Protocol

from marble.conditioning.latents import Origin
from marble.data.examples import Examples
from marble.typing import Array, Batch, ImageSpec


class Codec(Protocol):
    """Maps images [b h w c] float32 in [-1, 1] to x_0 [b h' w' c'], and back; pure functions, within a program."""

    image: ImageSpec
    """Of the images."""
    spec: ImageSpec
    """Of x_0: the shape and the levels of the space that diffuses."""

    def encode(self, images: Array, keys: Array | None = None) -> Array:
        """x_0 of images; keys [b] are for a codec that draws, which without them gives the mean."""

    def of_batch(self, batch: Batch, keys: Array) -> Array:
        """x_0 of a prepared batch: of its images, or of what they were encoded to before."""

    def cached(self, examples: Examples, origin: Origin | None) -> Examples:
        """*host* The examples as batches are made of them: with what was encoded in place of images, if it is kept.

        Without an origin they only stand for the shapes of others, and nothing is encoded.
        """

    def decode(self, x_0: Array) -> Array:
        """The images of x_0."""

    def resized(self, height: int, width: int) -> "Codec":
        """The codec of images of another size; InputError for one that it can't have."""
