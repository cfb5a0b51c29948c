"""Are two sets of images draws from one distribution?"""

import numpy as np

from marble.metrics.rows import as_pair, blocks

NUMBERS = 1 << 23
"""Distances that are in memory at a time: 64 MB."""


def nearest_neighbour_accuracy(one: np.ndarray, other: np.ndarray) -> float:
    """Leave-one-out accuracy of telling two sets apart by each point's nearest neighbour (Lopez-Paz & Oquab 2017).

    one and other are [n ...] and [m ...], compared by Euclidean distance; give as many of each. 0.5 is what equal
    distributions get. Towards 1 the sets lie apart, as for blurred or collapsed samples; well below 0.5 the points of
    one sit on those of the other, as for copies. Of several nearest ones, each has a share in the vote. InputError for
    other dimensions, or NaN.
    """
    one, other = as_pair(one, other, ("the first images", "the second images"))
    points = np.concatenate([one, other]).astype(np.float64)
    is_one = np.arange(len(points)) < len(one)
    squares, share_of_one = (points**2).sum(1), np.empty(len(points))
    for place, block in blocks(points, max(NUMBERS // len(points), 1)):
        distances = np.maximum(squares[place, None] + squares - 2 * block @ points.T, 0)
        distances[np.arange(len(block)), np.arange(place.start, place.stop)] = np.inf
        # Integer pixels make exact ties; squared distances of uint8 images are exact in float64.
        nearest = distances == distances.min(1, keepdims=True)
        share_of_one[place] = (nearest * is_one).sum(1) / nearest.sum(1)
    return float(np.where(is_one, share_of_one, 1 - share_of_one).mean())
