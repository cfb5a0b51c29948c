"""Whether a model gives back its training images: an audit by nearest neighbours, in pixels or in features.

What is near depends on the data, so it is measured against images that can't have been learnt: held-out ones, which
lie as near to the training images as an honest sample does. Without them, the training images' own distances tell.
"""

import dataclasses
import math

import numpy as np

from marble.errors import InputError
from marble.metrics.neighbours import nearest
from marble.metrics.rows import as_pair


@dataclasses.dataclass(frozen=True)
class Memorization:
    """What the audit found; the shares are of the generated images."""

    indices: np.ndarray
    """[n k] the nearest training images of each generated one, nearest first."""
    distances: np.ndarray
    """[n k] their distances."""
    threshold: float
    """Nearer than this to a training image is a copy."""
    copied: np.ndarray
    """bool [n]"""
    isolated: np.ndarray
    """bool [n]: those a third as far from a training image as from the next one or less (Yoon et al. 2023)."""
    authentic: np.ndarray
    """bool [n]: those further from their training image than that is from another (Alaa et al. 2022, section 4.4)."""
    data_copying: float | None
    """C_T (Meehan et al. 2020, eq. 3, with one cell): in standard deviations, how much further from the training images
    the generated ones lie than held-out ones do. Far below 0 (-3) they are copied, far above not of the data; None
    without held-out ones."""

    @property
    def copy_rate(self) -> float:
        """Among honest samples ``quantile`` is expected, with held-out images."""
        return float(self.copied.mean())

    @property
    def isolated_rate(self) -> float:
        """Near 0 for honest samples of many dimensions. It needs no held-out images, and does not see a near copy of an
        image that the training set has twice."""
        return float(self.isolated.mean())

    @property
    def authenticity(self) -> float:
        """0 for copies. Of honest samples a half on a line and more in many dimensions, where some points are
        everybody's neighbours: what held-out images have as ``generated``."""
        return float(self.authentic.mean())


def memorization(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    k: int = 3,
    quantile: float = 0.01,
) -> Memorization:
    """The audit of images or features generated [n ...], train [m ...], held_out [l ...] of the same distribution.

    A copy is nearer to a training image than the quantile of the held-out images' distances; without held-out ones,
    than that of each training image to the others, which is smaller where the training set has near duplicates. k
    neighbours, at least 2, are given for showing them. InputError for fewer than k + 1 training images, or another
    dimension.
    """
    if k < 2 or not 0 < quantile < 1:
        raise InputError(f"k={k}, quantile={quantile}: give k of 2 or more, and a quantile between 0 and 1")
    generated, train = as_pair(generated, train, ("the generated images", "the training images"), least=(1, k + 1))
    found, among_train = nearest(generated, train, k), nearest(train).distances[:, 0]
    distances, honest = found.distances[:, 0], among_train
    if held_out is not None:
        held_out, _ = as_pair(held_out, train, ("the held-out images", "the training images"))
        honest = nearest(held_out, train).distances[:, 0]
    threshold = float(np.quantile(honest, quantile))
    return Memorization(
        indices=found.indices,
        distances=found.distances,
        threshold=threshold,
        # An exact copy is one whatever the threshold: the training set's duplicates can make that 0.
        copied=(distances < threshold) | (distances == 0),
        isolated=3 * distances <= found.distances[:, 1],
        authentic=distances > among_train[found.indices[:, 0]],
        data_copying=None if held_out is None else _data_copying(distances, honest),
    )


def duplicate_rate(images: np.ndarray, *, within: float = 0.0) -> float:
    """The share of images or features [n ...] with another at most within away: 0 finds equal ones.

    Collapsed models repeat themselves. InputError for fewer than 2 images.
    """
    if not within >= 0:
        raise InputError(f"within={within} is a distance: give 0 or more")
    return float((nearest(images).distances[:, 0] <= within).mean())


def _data_copying(generated: np.ndarray, honest: np.ndarray) -> float:
    """Mann & Whitney's U of the distances, in standard deviations of equal distributions."""
    n, m = len(generated), len(honest)
    _, place, ties = np.unique(np.concatenate([generated, honest]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(ties) - (ties - 1) / 2  # of equal distances their mean
    statistic = ranks[place[:n]].sum() - n * (n + 1) / 2
    spread = n * m / 12 * (n + m + 1 - (ties**3 - ties).sum() / ((n + m) * (n + m - 1)))
    return float((statistic - n * m / 2) / math.sqrt(spread)) if spread > 0 else 0.0
