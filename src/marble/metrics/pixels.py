"""How near images are to their originals, pixel by pixel: PSNR and SSIM."""

import math
from collections.abc import Iterator

import numpy as np

from marble.errors import InputError

WINDOW, DEVIATION = 11, 1.5
"""Of SSIM's Gaussian window (Wang et al. 2004, section III C)."""


def psnr(images: np.ndarray, originals: np.ndarray, *, data_range: float | None = None) -> np.ndarray:
    """Peak signal-to-noise ratios in dB, 10 log10(data_range² / mean squared error), of images [n h w c]: [n].

    inf for equal ones. data_range is how far pixels can be apart; None is 255 of uint8 and 2 of floats, which
    are in [-1, 1] here. InputError for other shapes or types.
    """
    images, originals, data_range = _checked(images, originals, data_range)
    errors = np.array([((x - y) ** 2).mean() for x, y in _pairs(images, originals)])
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / errors)


def ssim(images: np.ndarray, originals: np.ndarray, *, data_range: float | None = None) -> np.ndarray:
    """Structural similarities (Wang et al. 2004, eq. 13) of images [n h w c]: [n], 1 for equal ones.

    Their constants: a Gaussian window of 11x11 with deviation 1.5, where it lies within the image; K_1 = 0.01,
    K_2 = 0.03; the mean over places and channels. This is scikit-image's with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False. data_range as of ``psnr``. InputError for images smaller than the window.
    """
    images, originals, data_range = _checked(images, originals, data_range)
    if min(images.shape[1:3]) < WINDOW:
        raise InputError(
            f"images of {images.shape[1]}x{images.shape[2]} are smaller than SSIM's window of {WINDOW}x{WINDOW}: "
            "give larger ones, or take PSNR"
        )
    return np.array([_ssim(x, y, data_range) for x, y in _pairs(images, originals)])


def _ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Of one image [h w c]."""
    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # About a middle value the second moments keep their digits; the covariances are the same.
    middle = (x.mean() + y.mean()) / 2
    mean_x, mean_y = _windowed(x - middle), _windowed(y - middle)
    variance_x = _windowed((x - middle) ** 2) - mean_x**2
    variance_y = _windowed((y - middle) ** 2) - mean_y**2
    covariance = _windowed((x - middle) * (y - middle)) - mean_x * mean_y
    mean_x, mean_y = mean_x + middle, mean_y + middle
    luminance = (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)
    structure = (2 * covariance + c_2) / (variance_x + variance_y + c_2)
    return float((luminance * structure).mean())


def _windowed(image: np.ndarray) -> np.ndarray:
    """[h w c] to weighted means over the window [h-10 w-10 c]."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * DEVIATION**2))
    weights /= weights.sum()
    for axis in (0, 1):
        image = np.lib.stride_tricks.sliding_window_view(image, WINDOW, axis=axis) @ weights
    return image


def _checked(
    images: np.ndarray, originals: np.ndarray, data_range: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    images, originals = np.asarray(images), np.asarray(originals)
    if images.shape != originals.shape or images.ndim != 4 or 0 in images.shape:
        raise InputError(
            f"images and originals have shapes {list(images.shape)} and {list(originals.shape)}: give [n h w c] twice"
        )
    if images.dtype != originals.dtype or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise InputError(
            f"images and originals are of {images.dtype} and {originals.dtype}: give both as uint8, or as floats"
        )
    if data_range is None:
        data_range = 255.0 if images.dtype == np.uint8 else 2.0
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"data_range={data_range} must be above 0: how far apart pixels can be")
    return images, originals, float(data_range)


def _pairs(images: np.ndarray, originals: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One image and its original after the other, in float64; InputError, naming the image, for NaN or infinity."""
    for i, (x, y) in enumerate(zip(images, originals, strict=True)):
        x, y = x.astype(np.float64), y.astype(np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError(f"image {i} or its original has NaN or infinity: look at what made it")
        yield x, y
