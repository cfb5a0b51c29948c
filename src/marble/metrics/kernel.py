"""Squared maximum mean discrepancies (Gretton et al. 2012): KID (Binkowski et al. 2018), CMMD (Jayasumana et al. 2024).

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)

over independent x, x' of one distribution and y, y' of the other. The mean over pairs of different images is unbiased,
and falls below 0 where the distributions are near. Kernel matrices are made block by block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from marble.errors import InputError
from marble.metrics.intervals import Estimate
from marble.metrics.rows import as_pair, blocks

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Points [n d], [m d], float64, to k(x, y) [n m]."""

NAMES = ("the first features", "the second features")


class Spread(NamedTuple):
    """Mean and standard deviation over parts, as libraries print them. The parts have images in common or are smaller
    than the whole: std is no standard error of mean."""

    mean: float
    std: float


def kid(
    one: np.ndarray,
    other: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    subsets: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> Spread:
    """KID: MMD² with the kernel (gamma x·y + coef0)^degree, unbiased, over random subsets of features [n ...], [m ...].

    gamma None is 1/d. The seed draws the subsets that torch-fidelity draws by the same one (2020 is its default), so
    features in its order get its number; subsets gives indices of both sides instead. ``polynomial_mmd`` is the same
    without subsets, with its error. InputError for fewer images than a subset, or another dimension.
    """
    one, other = as_pair(one, other, NAMES, least=(2, 2))
    if subsets is None:
        subsets = _subsets(len(one), len(other), num_subsets, subset_size, seed)
    kernel = _polynomial(one.shape[1], degree, gamma, coef0)
    found = [_mmd(one[i], other[j], kernel).value for i, j in subsets]
    return Spread(float(np.mean(found)), float(np.std(found)))


def polynomial_mmd(
    one: np.ndarray, other: np.ndarray, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> Estimate:
    """KID of all pairs of features [n ...], [m ...]: unbiased, and with its error over other draws of both."""
    one, other = as_pair(one, other, NAMES, least=(2, 2))
    return _mmd(one, other, _polynomial(one.shape[1], degree, gamma, coef0))


def gaussian_mmd(one: np.ndarray, other: np.ndarray, *, sigma: float, unbiased: bool = True) -> Estimate:
    """MMD² with the kernel exp(-|x - y|² / (2 sigma²)) of features [n ...], [m ...].

    unbiased=False counts each image with itself too (the V-statistic), which is above 0 always. InputError for a sigma
    that is not above 0.
    """
    one, other = as_pair(one, other, NAMES, least=(2, 2))
    # The kernel does not change with the origin: from one of the points, squares are no larger than distances.
    origin = np.asarray(one[0], np.float64)
    return _mmd(one, other, _gaussian(sigma, lambda x: x - origin), unbiased=unbiased)


def cmmd(
    one: np.ndarray, other: np.ndarray, *, sigma: float = 10.0, scale: float = 1000.0, unbiased: bool = False
) -> Estimate:
    """CMMD (Jayasumana et al. 2024): scale times the Gaussian MMD² of CLIP's image embeddings [n d], [m d].

    As in the published code, embeddings are made of length 1, and the estimate is the V-statistic, which is biased
    upwards by about scale (1 - E k)/n of either set; unbiased=True takes that off. InputError for an embedding of 0.
    """
    one, other = as_pair(one, other, NAMES, least=(2, 2))
    for rows, name in zip((one, other), NAMES, strict=True):
        for place, block in blocks(rows):
            of_length_1(block, name, place.start)
    found = _mmd(one, other, _gaussian(sigma, lambda x: of_length_1(x, NAMES[0])), unbiased=unbiased)
    return Estimate(scale * found.value, scale * found.error)


def of_length_1(rows: np.ndarray, name: str, first: int = 0) -> np.ndarray:
    """rows [n d] divided by their lengths, float64; InputError for a length of 0, with its row, counted from first."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise InputError(
            f"{name}: row {first + int(lengths.argmin())} is 0 and has no direction: look at its image or text"
        )
    return rows / lengths


def _gaussian(sigma: float, prepare: Callable[[np.ndarray], np.ndarray]) -> Kernel:
    """prepare makes of the points [n d] those that are compared."""
    if not sigma > 0:
        raise InputError(f"sigma={sigma} must be above 0")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = prepare(x), prepare(y)
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        return np.exp(np.maximum(squares, 0) / (-2 * sigma**2))

    return kernel


def _polynomial(dimension: int, degree: int, gamma: float | None, coef0: float) -> Kernel:
    if gamma is None:
        gamma = 1 / dimension
    return lambda x, y: (gamma * (x @ y.T) + coef0) ** degree


def _mmd(one: np.ndarray, other: np.ndarray, kernel: Kernel, *, unbiased: bool = True) -> Estimate:
    """MMD² of points [n d], [m d], with the error of a U-statistic: of the images' means over their pairs."""
    (within_1, own_1), (within_2, own_2) = _within(one, kernel), _within(other, kernel)
    across_1, across_2 = _across(one, other, kernel)
    n, m = len(one), len(other)
    if unbiased:
        value = within_1.sum() / (n * (n - 1)) + within_2.sum() / (m * (m - 1)) - 2 * across_1.sum() / (n * m)
    else:
        value = (within_1 + own_1).mean() / n + (within_2 + own_2).mean() / m - 2 * across_1.mean() / m
    # What each image adds (Hoeffding 1948); twice, as it stands on either side of a pair.
    variance = 0.0
    for within, across, others in ((within_1, across_1, m), (within_2, across_2, n)):
        influences = 2 * (within / (len(within) - 1) - across / others)
        variance += influences.var(ddof=1) / len(within)
    return Estimate(float(value), float(np.sqrt(variance)))


def _within(rows: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """sum_j k(x_i, x_j) over the other points j, and k(x_i, x_i): [n] both. Either half of the matrix is made once."""
    sums, own = np.zeros(len(rows)), np.empty(len(rows))
    for place, block in blocks(rows):
        square = kernel(block, block)
        own[place] = np.diagonal(square)
        sums[place] += square.sum(1) - own[place]
        for part, later in blocks(rows[place.stop :]):
            matrix = kernel(block, later)
            sums[place] += matrix.sum(1)
            sums[place.stop + part.start : place.stop + part.stop] += matrix.sum(0)
    return sums, own


def _across(one: np.ndarray, other: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """sum_j k(x_i, y_j) [n], sum_i k(x_i, y_j) [m]."""
    sums_1, sums_2 = np.zeros(len(one)), np.zeros(len(other))
    for place, block in blocks(one):
        for part, opposite in blocks(other):
            matrix = kernel(block, opposite)
            sums_1[place] += matrix.sum(1)
            sums_2[part] += matrix.sum(0)
    return sums_1, sums_2


def _subsets(n: int, m: int, num: int, size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    if num < 1 or not 2 <= size <= min(n, m):
        raise InputError(
            f"num_subsets={num} of subset_size={size}: at least 1, of 2 images or more, and of no more than there are, "
            f"{n} and {m}"
        )
    # The legacy generator, whose stream numpy keeps for ever, is the one that torch-fidelity draws by.
    rng = np.random.RandomState(seed)
    return [(rng.choice(n, size, replace=False), rng.choice(m, size, replace=False)) for _ in range(num)]
