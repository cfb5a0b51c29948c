"""Random access to the examples of a split: held as arrays, or stored and decoded one by one.

An example is a dict: `image` [h w c] uint8; where the data have them `label`, an int32, and `text`, a string.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArrayExamples:
    """Examples in memory: image [n h w c] uint8, and where the data have them label [n] int32 and n texts."""

    image: np.ndarray
    label: np.ndarray | None = None
    text: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, i: int) -> dict[str, Any]:
        columns = {"image": self.image, "label": self.label, "text": self.text}
        return {key: column[i] for key, column in columns.items() if column is not None}

    def take(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The batch of these examples: image [b h w c] and label [b], without texts."""
        columns = {"image": self.image, "label": self.label}
        return {key: column[np.asarray(indices)] for key, column in columns.items() if column is not None}


@dataclasses.dataclass(frozen=True)
class StoredExamples:
    """Examples read from `records` and decoded when they are asked for."""

    records: Sequence[Any]
    decode: Callable[[int, Any], dict[str, Any]] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.decode(i, self.records[i])


Examples = ArrayExamples | StoredExamples
