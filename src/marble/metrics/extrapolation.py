"""The Fréchet distance of endless images, by a line through those of fewer (Chong & Forsyth 2020).

FD of n images is that of endless ones plus about C/n, where C depends on the model: at one n, models are not compared
fairly. The published method measures FD at several n and reads the line in 1/n at 0.
"""

from typing import NamedTuple

import numpy as np

from marble.errors import InputError
from marble.metrics.frechet import assembled, checked, factor
from marble.metrics.moments import Moments
from marble.metrics.rows import as_rows


class Extrapolation(NamedTuple):
    """FD_n = value + slope / n, fitted."""

    value: float
    """FD of endless images. Of few images, or near 0, it can lie below 0."""
    slope: float
    nums: np.ndarray
    """[points] the numbers of images at which it was measured."""
    distances: np.ndarray
    """[points]"""


def frechet_extrapolation(
    features: np.ndarray,
    mean: np.ndarray,
    cov: np.ndarray,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> Extrapolation:
    """FD of features [n ...] to a reference, mean [d] and cov [d d], extrapolated to endless features: FID∞.

    It is measured at points numbers of images in equal steps from smallest (None: n // 10, as published) to n, each on
    images that are drawn by the seed. Where the smallest is near the dimension or below, FD does not follow the line,
    and ``frechet_estimate`` is nearer to the truth. InputError for fewer than 2 points, another dimension, or a
    smallest that is not between 2 and n - points.
    """
    rows = as_rows(features, "features", least=2)
    mean, cov = checked(mean, cov, "the reference's")
    if rows.shape[1] != len(mean):
        raise InputError(
            f"features have {rows.shape[1]} dimensions and the reference {len(mean)}: give those of one network"
        )
    n = len(rows)
    smallest = max(n // 10, 2) if smallest is None else smallest
    if points < 2 or not 2 <= smallest <= n - points:
        raise InputError(
            f"points={points}, smallest={smallest} of {n} images: give at least 2 points, and a smallest from 2 to "
            f"{n} - points"
        )
    reference, rng = factor(cov), np.random.default_rng(seed)
    nums = np.linspace(smallest, n, points).astype(int)
    distances = np.empty(points)
    for i, num in enumerate(nums):
        moments = Moments.of(rows[np.sort(rng.choice(n, num, replace=False))])
        # F_rᵀ S F_r has the squares of the singular values: no factor of each subset's covariance.
        inner = reference.T @ moments.covariance @ reference
        overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(inner), 0)).sum() if len(inner) else 0.0
        distances[i] = assembled(moments.mean - mean, np.trace(moments.covariance), np.trace(cov), overlap)
    slope, value = np.polyfit(1 / nums, distances, 1)
    return Extrapolation(float(value), float(slope), nums, distances)
