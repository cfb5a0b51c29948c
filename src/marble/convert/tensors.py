"""Tensors of a weight file before they are read: name, shape and type are known, the numbers stay on the disk."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """One array of a file, read when it is asked for, so that a conversion holds one at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype
    """As stored; bfloat16 is ml_dtypes'."""
    read: Callable[[], np.ndarray]

    def part(self, index: Any) -> "Tensor":
        """tensor[index], still on the disk: for names that hold several arrays in one."""
        shape = np.broadcast_to(np.zeros((), bool), self.shape)[index].shape
        return Tensor(shape, self.dtype, lambda: self.read()[index])

    def reshaped(self, *shape: int) -> "Tensor":
        """The same numbers in another shape of as many."""
        return Tensor(shape, self.dtype, lambda: self.read().reshape(shape))

    def transposed(self, *axes: int) -> "Tensor":
        """The same numbers with their axes in this order."""
        return Tensor(tuple(self.shape[axis] for axis in axes), self.dtype, lambda: self.read().transpose(axes))


Tensors = Mapping[str, Tensor]
"""The arrays of a file, by their names there."""


def held(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays in memory as tensors."""
    return {name: Tensor(a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()}


def under(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
