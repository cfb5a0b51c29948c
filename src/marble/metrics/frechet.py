"""The Fréchet distance of two Gaussians, which FID and its kin are (Dowson & Landau 1982; Heusel et al. 2017).

    FD = |m_1 - m_2|² + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^½

With any factors S = F Fᵀ the last trace is the sum of the singular values of F_1ᵀ F_2, which is real, finite and
exact for singular covariances too. The square root of the matrix S_1 S_2 itself, which is not symmetric, is never
formed: it is where other implementations become complex, or fail. Factors need not be square: of n < d features the
centred rows are one.
"""

import numpy as np

from marble.errors import InputError
from marble.metrics.moments import Moments
from marble.metrics.rows import as_pair

EPSILON = np.finfo(np.float64).eps
ACCURACY = 1e-10
"""Relative, of the sum of singular values."""


def frechet_distance(mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray) -> float:
    """FD of means [d] and covariances [d d], in float64; never below 0.

    InputError for other shapes, other dimensions, NaN, or matrices that are no covariances.
    """
    mean_1, cov_1 = checked(mean_1, cov_1, "the first")
    mean_2, cov_2 = checked(mean_2, cov_2, "the second")
    if len(mean_1) != len(mean_2):
        raise InputError(
            f"statistics have {len(mean_1)} and {len(mean_2)} dimensions: give those of one network and layer"
        )
    overlap = nuclear_norm(factor(cov_1).T @ factor(cov_2))
    return assembled(mean_1 - mean_2, np.trace(cov_1), np.trace(cov_2), overlap)


def frechet_distance_of_features(one: np.ndarray, other: np.ndarray) -> float:
    """FD of features [n ...] and [m ...] with their unbiased covariances; InputError for n or m below 2.

    Fewer features than dimensions never make a covariance, and cost less.
    """
    one, other = as_pair(one, other, ("the first features", "the second features"), least=(2, 2))
    parts = []
    for rows in (one, other):
        if len(rows) > rows.shape[1]:
            moments = Moments.of(rows)
            parts.append((moments.mean, np.trace(moments.covariance), factor(moments.covariance)))
        else:
            parts.append(_centred(rows))
    (mean_1, trace_1, factor_1), (mean_2, trace_2, factor_2) = parts
    return assembled(mean_1 - mean_2, trace_1, trace_2, nuclear_norm(factor_1.T @ factor_2))


def assembled(difference: np.ndarray, trace_1: float, trace_2: float, overlap: float) -> float:
    """FD of its parts; below 0 there is rounding alone."""
    return max(float(difference @ difference + trace_1 + trace_2 - 2 * overlap), 0.0)


def factor(covariance: np.ndarray) -> np.ndarray:
    """F [d r] with F Fᵀ = covariance: Cholesky's, or of eigenvectors where it is singular, without those of rounding.

    InputError for a matrix with an eigenvalue that is negative by more than rounding in float32.
    """
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
    scale = max(abs(values[0]), abs(values[-1]))
    if values[0] < -1e-4 * scale:
        raise InputError(
            f"a covariance has the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}: it is damaged, compute it again"
        )
    kept = values > len(values) * EPSILON * scale
    return vectors[:, kept] * np.sqrt(values[kept])


def nuclear_norm(matrix: np.ndarray) -> float:
    """The sum of the singular values of [r s]."""
    if 0 in matrix.shape:
        return 0.0
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    # Eigenvalues are found several times faster, but know small ones only to within EPSILON of the largest.
    squares = np.linalg.eigvalsh(matrix @ matrix.T)
    with np.errstate(divide="ignore", over="ignore"):
        roots = np.sqrt(np.maximum(squares, 0))
        doubt = (EPSILON * squares[-1] / (2 * roots)).sum()
    if doubt < ACCURACY * roots.sum():
        return float(roots.sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def checked(mean: np.ndarray, covariance: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean [d] and the covariance [d d] in float64; InputError where they are no such things."""
    mean, covariance = np.asarray(mean), np.asarray(covariance)
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{name} mean and covariance have shapes {list(mean.shape)}, {list(covariance.shape)}: give [d] and [d d]"
        )
    if not all(array.dtype.kind in "biuf" for array in (mean, covariance)):
        raise InputError(f"{name} mean and covariance are of {mean.dtype} and {covariance.dtype}: give real numbers")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{name} mean or covariance has NaN or infinity: look at the images that it was computed of")
    if np.abs(covariance - covariance.T).max() > 1e-4 * np.abs(covariance).max():
        raise InputError(f"{name} covariance is not symmetric: it is damaged, compute it again")
    return mean, (covariance + covariance.T) / 2


def _centred(rows: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    rows = np.asarray(rows, np.float64)
    mean = rows.mean(0)
    centred = (rows - mean).T / np.sqrt(len(rows) - 1)
    return mean, float((centred**2).sum()), centred
