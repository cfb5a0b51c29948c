"""Resizing along an axis as a matrix [out in], float64: each row says of what an output pixel is made.

Libraries differ in where they put pixels, and in whether a smaller image is made of all of a larger one's pixels. An
image's distance to another changes by more with these than between good models (Parmar et al. 2022, arXiv:2104.11222).
"""

import numpy as np


def corner_linear_axis(size: int, new: int) -> np.ndarray:
    """TensorFlow 1's ``resize_bilinear``: output i is at i * size / new, as if pixels were points at their corners.

    So images move by up to half a pixel, and smaller ones are made of two pixels a side, whatever lies between.
    """
    # The kernel computes places in float32, and its floor decides which pixels are read.
    at = np.arange(new, dtype=np.float32) * np.float32(size / new)
    low = np.minimum(at.astype(np.int64), size - 1)
    return _two_taps(size, low, (at - low.astype(np.float32)).astype(np.float64))


def linear_axis(size: int, new: int) -> np.ndarray:
    """PyTorch's ``interpolate(mode="bilinear", align_corners=False)``: pixel centres, two pixels, no antialiasing."""
    at = np.maximum((np.arange(new) + 0.5) * size / new - 0.5, 0)
    low = np.minimum(np.floor(at).astype(np.int64), size - 1)
    return _two_taps(size, low, at - low)


def cubic_axis(size: int, new: int, *, scale: float | None = None) -> np.ndarray:
    """PyTorch's ``interpolate(mode="bicubic", align_corners=False)``: pixel centres, four pixels, no antialiasing.

    scale is how many pixels an output pixel is from the next, by default size / new. Pixels beyond the ends are those
    at the ends (Keys 1981 with a = -0.75).
    """
    at = (np.arange(new) + 0.5) * (size / new if scale is None else scale) - 0.5
    low = np.floor(at).astype(np.int64)
    matrix = np.zeros((new, size))
    for tap in range(-1, 3):
        place = np.clip(low + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new), place), cubic(low + tap - at, -0.75))
    return matrix


def antialiased_cubic_axis(size: int, new: int) -> np.ndarray:
    """Pillow's ``resize(resample=BICUBIC)``: pixel centres, a kernel as wide as an output pixel, cut at the ends.

    (Keys 1981 with a = -0.5; a row is made to sum to 1.)
    """
    stretch = max(size / new, 1.0)
    centre = (np.arange(new) + 0.5)[:, None] * size / new
    low = np.maximum((centre - 2 * stretch + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), size)
    pixels = np.arange(size)[None]
    weights = cubic((pixels - centre + 0.5) / stretch, -0.5) * ((pixels >= low) & (pixels < high))
    return weights / weights.sum(axis=1, keepdims=True)


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The convolution kernel of Keys 1981, of width 4: 1 at 0, and 0 at every other whole number."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _two_taps(size: int, low: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rows of 1 - share at low and share at the next pixel, which at the end is the last."""
    matrix, rows = np.zeros((len(low), size)), np.arange(len(low))
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), share)
    return matrix
