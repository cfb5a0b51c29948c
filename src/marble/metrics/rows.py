"""Sets of points that metrics are given: checked, and read in blocks.

Features may lie in a file (``numpy.memmap``) and be float32: what computes takes them block by block, as float64.
"""

import math
from collections.abc import Iterator

import numpy as np

from marble.errors import InputError

BLOCK = 2048
"""Rows of a block: of 2048 numbers each they take 32 MB, and so do the distances of two blocks."""


def as_rows(array: np.ndarray, name: str, *, least: int = 1) -> np.ndarray:
    """The points [n d] of an array [n ...], a view where it can be; InputError for fewer than least, or no numbers.

    name is what messages call them.
    """
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} are of dtype {array.dtype}: give real numbers")
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise InputError(f"{name} have shape {list(array.shape)}: give a row of numbers for each image, [n d]")
    if len(array) < least:
        raise InputError(f"{name} are {len(array)}, and {least} is the least that this is defined for: give more")
    rows = array.reshape(len(array), math.prod(array.shape[1:]))
    if rows.dtype.kind == "f":
        _check_finite(rows, name)
    return rows


def as_pair(
    one: np.ndarray, other: np.ndarray, names: tuple[str, str], *, least: tuple[int, int] = (1, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets as ``as_rows`` has them; InputError where their dimensions differ."""
    one, other = (as_rows(array, name, least=n) for array, name, n in zip((one, other), names, least, strict=True))
    if one.shape[1] != other.shape[1]:
        raise InputError(
            f"{names[0]} have {one.shape[1]} dimensions and {names[1]} {other.shape[1]}: give features of one network"
        )
    return one, other


class Part:
    """Some of the rows of an array, that stay where they are until a block of them is read."""

    def __init__(self, rows: np.ndarray, indices: np.ndarray) -> None:
        self._rows, self._indices = rows, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: slice) -> np.ndarray:
        return self._rows[self._indices[place]]


def random_halves(rows: np.ndarray) -> tuple[Part, Part]:
    """Both halves of rows in a random order, the same each time: rows may be sorted, or come in turn."""
    order, cut = np.random.default_rng(0).permutation(len(rows)), (len(rows) + 1) // 2
    return Part(rows, np.sort(order[:cut])), Part(rows, np.sort(order[cut:]))


def spread(num: int, of: int) -> np.ndarray:
    """num of so many indices [num], ascending: one from each of as many equal stretches, at random, always the same.

    Evenly spaced ones of a set whose classes come in turn would all be of one class, and the first of a sorted set too.
    """
    edges = np.arange(num + 1) * of // num
    return edges[:-1] + (np.random.default_rng(0).random(num) * np.diff(edges)).astype(np.int64)


def blocks(rows: "np.ndarray | Part", size: int = BLOCK) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of rows [n d] in their order, in float64, each with its place."""
    for start in range(0, len(rows), size):
        place = slice(start, min(start + size, len(rows)))
        yield place, np.asarray(rows[place], np.float64)


def _check_finite(rows: np.ndarray, name: str) -> None:
    for start in range(0, len(rows), BLOCK):
        bad = ~np.isfinite(rows[start : start + BLOCK]).all(1)
        if bad.any():
            raise InputError(f"{name}: row {start + int(bad.argmax())} has NaN or infinity: look at its image")
