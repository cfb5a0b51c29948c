"""Images as rows of patches, squares of pixels that a network takes as one, and back."""

from marble.typing import Array


def into_patches(x: Array, size: int) -> Array:
    """[b h w c] -> [b n size*size*c]: squares of pixels, row by row, each with its rows one after the other."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)  # [b rows columns size size c]
    return x.reshape(b, -1, size * size * c)


def from_patches(x: Array, rows: int, columns: int, size: int) -> Array:
    """[b rows*columns size*size*c] -> [b h w c], the inverse of ``into_patches``."""
    b, _, features = x.shape
    x = x.reshape(b, rows, columns, size, size, features // size**2).swapaxes(2, 3)
    return x.reshape(b, rows * size, columns * size, -1)
