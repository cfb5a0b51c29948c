"""How sure a Fréchet distance is, and what it would be of endless images: to second order in the moments' errors.

FD is a function of the mean m and the covariance S of the features. Let the reference be m_r, S_r = F Fᵀ, and
Fᵀ S F = U diag(a) Uᵀ; with y = (F U)ᵀ (x - m), the derivative of tr (Fᵀ S F)^½ weighs yᵢ² by 1 / (2 √aᵢ), so an image x
moves the distance by 1/n of its influence

    I(x) = 2 (m - m_r)·(x - m) + |x - m|² - sum_i yᵢ² / √aᵢ,    less its mean

and the standard error is that of the mean of I. The second order has an expectation, the bias of FD towards large:

    E FD_n - FD = (1/n) (tr S + ½ sum_ij Cov(yᵢ yⱼ) / (√(aᵢ aⱼ) (√aᵢ + √aⱼ))) + O(1/n²)

(by the divided differences of the square root's derivative; Cov(yᵢ yⱼ) = E yᵢ² yⱼ² - aᵢ² δᵢⱼ). With this taken off,
what is left of order 1/n² falls to a quarter from half of the images to all, so (4 L_n - L_(n/2)) / 3 is without it
(Richardson 1911). The line of ``frechet_extrapolation``, which has neither, is further off, and takes longer.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np

from marble.errors import InputError
from marble.metrics.frechet import EPSILON, assembled, checked, factor
from marble.metrics.intervals import Estimate
from marble.metrics.moments import Moments
from marble.metrics.rows import Part, as_pair, as_rows, blocks, random_halves

ENOUGH = 3
"""Images for each dimension, from which on the expansion holds."""


class FrechetEstimate(NamedTuple):
    """A Fréchet distance of n images, with what is known of its error."""

    value: float
    """FD of these images."""
    error: float
    """Standard error, over other draws of n images."""
    bias: float | None
    """How much of it is there because images are n and not endless; None for n below 3 d, where that can't be told."""

    @property
    def at_num(self) -> Estimate:
        """What n images give on average: for models that are all judged by n."""
        return Estimate(self.value, self.error)

    @property
    def limit(self) -> Estimate | None:
        """The distance of the distributions themselves, which can come out below 0 where it is 0; None as of bias."""
        return None if self.bias is None else Estimate(self.value - self.bias, self.error)


class _Reference(NamedTuple):
    """What it takes of a Gaussian: mean, trace of the covariance, factor of it."""

    mean: np.ndarray
    trace: float
    factor: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, cov: np.ndarray) -> Self:
        return cls(mean, float(np.trace(cov)), factor(cov))


class _Expansion(NamedTuple):
    value: float
    bias: float
    variance: float


def frechet_estimate(features: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> FrechetEstimate:
    """FD of features [n ...] to a reference, mean [d] and cov [d d], that is taken as it is.

    InputError for n below 2, or another dimension.
    """
    rows = as_rows(features, "features", least=2)
    mean, cov = checked(mean, cov, "the reference's")
    if rows.shape[1] != len(mean):
        raise InputError(
            f"features have {rows.shape[1]} dimensions and the reference {len(mean)}: give those of one network"
        )
    reference = _Reference.of(mean, cov)
    return _estimate(lambda part: _to_fixed(part, reference), rows)


def frechet_estimate_of_features(one: np.ndarray, other: np.ndarray) -> FrechetEstimate:
    """FD of features [n ...] and [m ...], both draws: either's number of images adds to bias and error.

    InputError for n or m below 2, or another dimension.
    """
    one, other = as_pair(one, other, ("the first features", "the second features"), least=(2, 2))
    return _estimate(_of_both, one, other)


def _estimate(expand: Callable[..., _Expansion], *sets: np.ndarray) -> FrechetEstimate:
    """Of an expansion that can be had of parts of the sets."""
    whole = expand(*sets)
    bias = None
    if min(map(len, sets)) >= max(ENOUGH * sets[0].shape[1], 4):
        halves = [expand(*parts) for parts in zip(*map(random_halves, sets), strict=True)]
        coarse = sum(half.value - half.bias for half in halves) / 2
        bias = whole.value - (4 * (whole.value - whole.bias) - coarse) / 3
    return FrechetEstimate(whole.value, math.sqrt(whole.variance), bias)


def _to_fixed(rows: np.ndarray | Part, reference: _Reference) -> _Expansion:
    return _expanded(rows, _moments(rows), reference)


def _of_both(one: np.ndarray | Part, other: np.ndarray | Part) -> _Expansion:
    moments_1, moments_2 = _moments(one), _moments(other)
    first = _expanded(one, moments_1, _Reference.of(moments_2.mean, moments_2.covariance))
    second = _expanded(other, moments_2, _Reference.of(moments_1.mean, moments_1.covariance))
    return _Expansion(first.value, first.bias + second.bias, first.variance + second.variance)


def _moments(rows: np.ndarray | Part) -> Moments:
    return functools.reduce(Moments.merged, (Moments.of(block) for _, block in blocks(rows)))


def _expanded(rows: np.ndarray | Part, moments: Moments, reference: _Reference) -> _Expansion:
    """The distance, its first-order bias and its variance as rows [n d] are drawn again."""
    n, covariance, difference = len(rows), moments.covariance, moments.mean - reference.mean
    projection, roots = _aligned(reference.factor, covariance)
    value = assembled(difference, np.trace(covariance), reference.trace, roots.sum())
    influences, fourth = np.empty(n), np.zeros((len(roots), len(roots)))
    for place, block in blocks(rows):
        centred = block - moments.mean
        squares = (centred @ projection) ** 2
        fourth += squares.T @ squares
        influences[place] = 2 * centred @ difference + (centred**2).sum(1) - squares @ (1 / roots)
    covariances = fourth / n - np.diag(roots**4)
    curvature = covariances / (np.outer(roots, roots) * (roots[:, None] + roots))
    bias = (np.trace(covariance) + curvature.sum() / 2) / n
    return _Expansion(value, float(bias), float(influences.var(ddof=1)) / n)


def _aligned(factor_: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F U [d r] and √a [r], for those a that are not rounding."""
    values, vectors = np.linalg.eigh(factor_.T @ covariance @ factor_)
    kept = values > len(values) * EPSILON * values[-1:]
    return factor_ @ vectors[:, kept], np.sqrt(values[kept])
