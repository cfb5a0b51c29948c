"""Random access to the examples of a split: held as arrays, or stored and decoded one by one.

An example is a dict: `image` [h w c] uint8; where the data have them `label`, an int32, and `text`, a string; and the
arrays that were made of its text, such as its tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from marble.errors import InputError

TextArrays = Callable[[Sequence[str]], Mapping[str, np.ndarray]]
"""Arrays [n ...] of n texts, by their names."""


@dataclasses.dataclass(frozen=True)
class ArrayExamples:
    """Examples in memory: image [n h w c] uint8, and where the data have them label [n] int32 and n texts.

    ``more`` are arrays [n ...] beside them.
    """

    image: np.ndarray | None
    """None where what it was encoded to stands in its place."""
    label: np.ndarray | None = None
    text: Sequence[str] | None = None
    more: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self._arrays().values())))

    def __getitem__(self, i: int) -> dict[str, Any]:
        columns = {**self._arrays(), "text": self.text}
        return {key: column[i] for key, column in columns.items() if column is not None}

    def take(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The batch of these examples: image [b h w c], label [b] and more, without texts."""
        return {key: column[np.asarray(indices)] for key, column in self._arrays().items()}

    def texts(self, limit: int) -> list[str]:
        """The texts of at most so many examples, from all over them; InputError where they have none."""
        if self.text is None:
            raise _no_texts()
        return [self.text[i] for i in _evenly(len(self), limit)]

    def subset(self, rows: np.ndarray) -> "ArrayExamples":
        """The examples of these rows, in their order."""
        picked = {name: column[rows] for name, column in self._arrays().items()}
        text = None if self.text is None else [self.text[i] for i in rows]
        return ArrayExamples(picked.pop("image", None), picked.pop("label", None), text, picked)

    def with_text_arrays(self, made: TextArrays) -> "ArrayExamples":
        """These, with arrays made of their texts; InputError where they have none."""
        if self.text is None:
            raise _no_texts()
        return dataclasses.replace(self, more={**self.more, **made(self.text)})

    def _arrays(self) -> dict[str, np.ndarray]:
        named = {"image": self.image, "label": self.label, **self.more}
        return {key: column for key, column in named.items() if column is not None}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some of a sequence's items."""

    items: Sequence[Any]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.items[int(self.rows[i])]


@dataclasses.dataclass(frozen=True)
class StoredExamples:
    """Examples read from `records` and decoded when they are asked for."""

    records: Sequence[Any]
    decode: Callable[[int, Any], dict[str, Any]] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.decode(i, self.records[i])

    def texts(self, limit: int) -> list[str]:
        """The texts of at most so many examples, from all over them; InputError where they have none."""
        found = [self[i].get("text") for i in _evenly(len(self), limit)]
        if None in found:
            raise _no_texts()
        return found

    def subset(self, rows: np.ndarray) -> "StoredExamples":
        """The examples of these rows, in their order."""
        return StoredExamples(Rows(self.records, rows), self.decode)

    def with_text_arrays(self, made: TextArrays) -> "StoredExamples":
        """These, each with arrays made of its text; InputError where they have none."""
        if len(self) and "text" not in self[0]:
            raise _no_texts()

        def decode(i: int, record: Any) -> dict[str, Any]:
            example = self.decode(i, record)
            return {**example, **{name: rows[0] for name, rows in made([example["text"]]).items()}}

        return dataclasses.replace(self, decode=decode)


Examples = ArrayExamples | StoredExamples


def evenly(examples: Examples, num: int) -> np.ndarray:
    """The images [n h w c] of at most num examples, from all over them."""
    return np.stack([examples[i]["image"] for i in _evenly(len(examples), num)])


def _evenly(count: int, limit: int) -> list[int]:
    num = min(count, limit)
    return [i * count // num for i in range(num)]


def _no_texts() -> InputError:
    return InputError(
        "the data have no texts, and this model is told each image's own: give a folder with a metadata.jsonl whose "
        "lines have a text"
    )
