"""The mean and the covariance of a stream of features, in parts that can be merged."""

import dataclasses
from typing import Self

import numpy as np

from marble.errors import InputError
from marble.metrics.rows import as_rows, blocks


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of num points of d dimensions; float64. Parts of a set that are merged equal the whole, but for rounding."""

    num: int
    mean: np.ndarray
    """[d]"""
    scatter: np.ndarray
    """[d d]: sum over the points of (x - mean)(x - mean)ᵀ."""

    @classmethod
    def none(cls, dimension: int) -> Self:
        """Of no points: where a stream starts."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """Of features [n ...]. InputError, naming the row, for NaN or infinity."""
        rows = as_rows(features, "features", least=0)
        found = cls.none(rows.shape[1])
        for _, block in blocks(rows):
            mean = block.mean(0)
            centred = block - mean
            found = found.merged(cls(len(block), mean, centred.T @ centred))
        return found

    def add(self, features: np.ndarray) -> Self:
        """With a batch [b ...] more."""
        return self.merged(self.of(features))

    def merged(self, other: Self) -> Self:
        """Of both sets (Chan, Golub & LeVeque 1979, eq. 2.1). InputError where their dimensions differ."""
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"features have {len(self.mean)} and {len(other.mean)} dimensions: give features of one network"
            )
        if 0 in (self.num, other.num):
            return other if self.num == 0 else self
        num = self.num + other.num
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.num / num)
        between = (self.num * other.num / num) * np.outer(gap, gap)
        return type(self)(num, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """[d d], unbiased: scatter / (num - 1), as pytorch-fid and numpy.cov have it. InputError for num below 2."""
        if self.num < 2:
            raise InputError(f"a covariance needs at least 2 images: there are {self.num}")
        return self.scatter / (self.num - 1)
