"""Nearest neighbours by Euclidean distance, exactly, in blocks.

|x|² + |y|² - 2 x·y is fast, but of near points it keeps rounding alone; so where it can't tell, the difference itself
decides. Ties are then ties, and a copy lies at distance 0. Distances are taken from one of the points on, where large
means do no harm.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from marble.errors import InputError
from marble.metrics.rows import BLOCK, as_pair, as_rows, blocks

ROUNDING = 1e-12
"""Of |x|² + |y|², more than the fast form is off by."""


class Neighbours(NamedTuple):
    """The k nearest points of each query, nearest first."""

    distances: np.ndarray
    """[n k] float64."""
    indices: np.ndarray
    """[n k] into the points; of equally near ones any."""


def nearest(query: np.ndarray, points: np.ndarray | None = None, k: int = 1) -> Neighbours:
    """The k nearest of points [m ...] to each of query [n ...]; points None are query's others, without itself.

    InputError for fewer points than k, or another dimension.
    """
    if k < 1:
        raise InputError(f"k={k} must be at least 1")
    if points is None:
        query = points_ = as_rows(query, "images", least=k + 1)
    else:
        query, points_ = as_pair(query, points, ("images", "the images to look among"), least=(1, k))
    distances, indices = np.empty((len(query), k)), np.empty((len(query), k), np.int64)
    for place, block in blocks(query, BLOCK // 2):
        skip = place if points is None else None
        indices[place] = _candidates(block, points_, k, skip)
        found = np.stack([exact(block, np.asarray(points_[column], np.float64)) for column in indices[place].T], 1)
        order = np.argsort(found, axis=1, kind="stable")
        distances[place] = np.sqrt(np.take_along_axis(found, order, 1))
        indices[place] = np.take_along_axis(indices[place], order, 1)
    return Neighbours(distances, indices)


def inside(
    query: np.ndarray, points: np.ndarray, *, of_points: Sequence[np.ndarray] = (), of_query: Sequence[np.ndarray] = ()
) -> Iterator[tuple[slice, slice, list[np.ndarray]]]:
    """Whether query [n d] and points [m d] lie in each other's balls, or on the surface: blocks with their places.

    of_points are radii [m], of which each gives |query_i - points_j| <= radii_j, and of_query such of the query's [n];
    all are asked of distances that are made once.
    """
    for place, block, part, opposite, squares, sizes in _pairs(query, points):
        limits = [radii[None, part] for radii in of_points] + [radii[place, None] for radii in of_query]
        yield place, part, [_at_most(squares, sizes, limit, block, opposite) for limit in limits]


def squared(query: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """|x - y|² of query [n d] and points [m d], the fast form: blocks with their places."""
    for place, _, part, _, squares, _ in _pairs(query, points):
        yield place, part, squares


def _pairs(query: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, Any, slice, Any, np.ndarray, np.ndarray]]:
    """Blocks of both with their places, their squared distances, and the sizes that these are differences of."""
    origin = np.asarray(points[0], np.float64)
    for place, block in blocks(query):
        for part, opposite in blocks(points):
            yield place, block, part, opposite, *_fast(block - origin, opposite - origin)


def _at_most(
    squares: np.ndarray, sizes: np.ndarray, limit: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Whether distances [n m], by their squares, are at most limit, which broadcasts to them."""
    found = squares <= limit**2
    limit = np.broadcast_to(limit, squares.shape)
    for i, j in _in_parts(np.abs(squares - limit**2) < ROUNDING * sizes, one.shape[1]):
        # The root, as the radii have it, so that a distance equal to a radius stays equal.
        found[i, j] = np.sqrt(exact(one[i], other[j])) <= limit[i, j]
    return found


def exact(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|x - y|² of rows [n d] with rows [n d], by differences: the same for (x, y) as for (y, x)."""
    return ((one - other) ** 2).sum(1)


def _candidates(block: np.ndarray, points: np.ndarray, k: int, skip: slice | None) -> np.ndarray:
    """Indices [n k] of the nearest to each of block [n d]; skip is where these are points themselves."""
    origin = np.asarray(points[0], np.float64)
    shifted = block - origin
    best, indices = np.empty((len(block), 0)), np.empty((len(block), 0), np.int64)
    for part, opposite in blocks(points):
        squares, sizes = _fast(shifted, opposite - origin)
        for i, j in _in_parts(squares < ROUNDING * sizes, block.shape[1]):
            squares[i, j] = exact(block[i], opposite[j])
        if skip is not None:
            own = np.arange(max(part.start, skip.start), min(part.stop, skip.stop))
            squares[own - skip.start, own - part.start] = np.inf
        columns = np.broadcast_to(np.arange(part.start, part.stop), squares.shape)
        best, indices = np.concatenate([best, squares], 1), np.concatenate([indices, columns], 1)
        if best.shape[1] > k:
            kept = np.argpartition(best, k - 1, axis=1)[:, :k]
            best, indices = np.take_along_axis(best, kept, 1), np.take_along_axis(indices, kept, 1)
    return indices


def _fast(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|x - y|² by products, and |x|² + |y|², of rows [n d], [m d]: [n m] both."""
    sizes = (one**2).sum(1)[:, None] + (other**2).sum(1)
    return sizes - 2 * (one @ other.T), sizes


def _in_parts(chosen: np.ndarray, dimension: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places where chosen [n m] is true, so many at a time that their points fit in memory."""
    i, j = np.nonzero(chosen)
    size = max(BLOCK * BLOCK // dimension, 1)
    for start in range(0, len(i), size):
        yield i[start : start + size], j[start : start + size]
