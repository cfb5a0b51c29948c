"""Fidelity and diversity apart: whether images lie where the real ones do, and whether they are everywhere there.

Where the real images "are" is the union of balls about each of them, with the distance to its k-th nearest real
neighbour as radius (Kynkäänniemi et al. 2019); likewise of the generated ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marble.errors import InputError
from marble.metrics.neighbours import inside, nearest
from marble.metrics.rows import as_pair

NAMES = ("the real images", "the generated images")


class PrecisionRecall(NamedTuple):
    """Of each image, whether it lies in the other set's balls.

    ``mean_estimate(inside_real)`` has the error of the precision over draws of generated images. The recall moves with
    the generated images' balls: ``half_sample_errors`` has its.
    """

    inside_real: np.ndarray
    """bool [m], of the generated images."""
    inside_fake: np.ndarray
    """bool [n], of the real images."""

    @property
    def precision(self) -> float:
        """The share of generated images that look real."""
        return float(self.inside_real.mean())

    @property
    def recall(self) -> float:
        """The share of real images that could have been generated."""
        return float(self.inside_fake.mean())


class DensityCoverage(NamedTuple):
    """By image. The errors are as of ``PrecisionRecall``: the density's is a mean's, the coverage's is of halves."""

    balls: np.ndarray
    """[m]: in how many real balls each generated image lies, over k."""
    covered: np.ndarray
    """bool [n]: whether there is a generated image in the ball of each real one."""

    @property
    def density(self) -> float:
        """About 1 for equal distributions, above it where samples keep to crowded places. An outlier among the real
        images, with its large ball, counts less than in the precision."""
        return float(self.balls.mean())

    @property
    def coverage(self) -> float:
        """The share of real images with a generated one near: 1 - 2^-k about, for equal distributions and numbers."""
        return float(self.covered.mean())


def precision_recall(real: np.ndarray, fake: np.ndarray, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1-2) of features real [n ...], fake [m ...].

    Points on a ball's surface are in it. Both fall and rise with the numbers of images: compare equal ones.
    InputError for fewer than k + 1 of either, or another dimension.
    """
    real, fake = as_pair(real, fake, NAMES, least=(k + 1, k + 1))
    return _precision_recall(*_counted(real, fake, of_real=[_radii(real, k)], of_fake=[_radii(fake, k)]))


def density_coverage(real: np.ndarray, fake: np.ndarray, *, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, eq. 3-4) of features real [n ...], fake [m ...].

    Balls are of the real images alone. Points on a ball's surface are in it. InputError for fewer than k + 1 real
    images, none generated, or another dimension.
    """
    real, fake = as_pair(real, fake, NAMES, least=(k + 1, 1))
    [found] = _counted(real, fake, of_real=[_radii(real, k)])
    return _density_coverage(found, k)


def prdc(
    real: np.ndarray, fake: np.ndarray, *, k: int = 3, density_k: int = 5
) -> tuple[PrecisionRecall, DensityCoverage]:
    """``precision_recall`` with k and ``density_coverage`` with density_k, of distances that are found once.

    It takes about half the time of both. InputError as of these.
    """
    most, least = max(k, density_k), min(k, density_k)
    if least < 1:
        raise InputError(f"k={k}, density_k={density_k}: give 1 or more")
    real, fake = as_pair(real, fake, NAMES, least=(most + 1, k + 1))
    distances = nearest(real, k=most).distances
    of_real = [distances[:, k - 1], distances[:, density_k - 1]]
    in_real, near, in_fake = _counted(real, fake, of_real=of_real, of_fake=[_radii(fake, k)])
    return _precision_recall(in_real, in_fake), _density_coverage(near, density_k)


class _Counts(NamedTuple):
    """Of one set of balls: pairs of a real image and a generated one that are no further apart than the radius."""

    of_fake: np.ndarray
    """[m], for each generated image."""
    any_of_real: np.ndarray
    """bool [n]: whether there are any for each real one."""


def _counted(
    real: np.ndarray, fake: np.ndarray, *, of_real: Sequence[np.ndarray], of_fake: Sequence[np.ndarray] = ()
) -> list[_Counts]:
    """By the radii [n] of real images, and then by those [m] of generated ones."""
    counts = [_Counts(np.zeros(len(fake), int), np.zeros(len(real), bool)) for _ in (*of_real, *of_fake)]
    for place, part, found in inside(fake, real, of_points=of_real, of_query=of_fake):
        for each, within in zip(counts, found, strict=True):
            each.of_fake[place] += within.sum(1)
            each.any_of_real[part] |= within.any(0)
    return counts


def _precision_recall(in_real: _Counts, in_fake: _Counts) -> PrecisionRecall:
    return PrecisionRecall(in_real.of_fake > 0, in_fake.any_of_real)


def _density_coverage(near: _Counts, k: int) -> DensityCoverage:
    return DensityCoverage(near.of_fake / k, near.any_of_real)


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    return nearest(rows, k=k).distances[:, -1]
