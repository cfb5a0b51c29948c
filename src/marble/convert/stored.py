"""The bytes of a file, by position or one after the other: every format reads through this.

What a file says of sizes and shapes is checked here against what it has. Whatever is wrong is an InputError.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from marble.convert.tensors import Tensor
from marble.errors import InputError

MOST_AXES = 32


class Stored(NamedTuple):
    """A file of weights: what is read of it is checked against its size first."""

    path: Path
    size: int

    def damaged(self, what: str) -> InputError:
        """The error for a file that contradicts itself."""
        return InputError(f"{self.path} is damaged: {what}; download or copy it again")

    def bytes(self, start: int, length: int) -> np.ndarray:
        """[length] uint8, memory of its own: not a map of the file, which ends the process if the file shrinks."""
        if start < 0 or length < 0 or start + length > self.size:
            raise self.damaged(f"bytes {start} to {start + length} should be there, and it has {self.size}")
        read = np.empty(length, np.uint8)
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                if file.readinto(memoryview(read)) != length:
                    raise self.damaged("it has become shorter since it was opened")
        except OSError as error:
            raise unreadable(self.path, error) from error
        return read

    def numbers(self, start: int, count: int, dtype: np.dtype) -> np.ndarray:
        """[count] of that type."""
        read = self.bytes(start, count * dtype.itemsize)
        return read != 0 if dtype.kind == "b" else read.view(dtype)  # NumPy's bools are the bytes 0 and 1 alone

    def tensor(self, name: str, start: int, shape: Sequence[Any], dtype: np.dtype, room: int) -> Tensor:
        """A tensor that must have exactly this room, in bytes, from start."""
        shape = self.shape(name, shape, dtype)
        length = math.prod(shape) * dtype.itemsize
        if length != room:
            raise self.damaged(f"{shown(name)} {list(shape)} of {dtype} is {length} bytes, and it has {room}")
        if start < 0 or start + room > self.size:
            raise self.damaged(f"{shown(name)} ends at byte {start + room}, and the file at {self.size}")
        return Tensor(shape, dtype, lambda: self.numbers(start, math.prod(shape), dtype).reshape(shape))

    def shape(self, name: str, shape: Any, dtype: np.dtype) -> tuple[int, ...]:
        """The shape, if NumPy can have such an array."""
        sane = isinstance(shape, list | tuple) and len(shape) <= MOST_AXES and all(map(is_count, shape))
        if not sane or math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**62:
            raise self.damaged(f"{shown(name)} has the shape {shown(shape)}")
        return tuple(shape)


def is_count(value: Any) -> bool:
    """Whether it is an integer from 0 to 2^62; True is none."""
    return type(value) is int and 0 <= value < 2**62


def shown(value: Any) -> str:
    """What a file holds, short and on one line: it may be anything."""
    if type(value) is int and abs(value) >= 2**64:
        return "a number of more than 64 bits"
    short = value[:80] if isinstance(value, str | bytes) else value
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) if type(item) in (int, str) else '...' for item in value[:8])}]"
    return repr(short)[:100] if isinstance(short, str | bytes | int | float | bool | None) else type(value).__name__


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that the operating system does not give."""
    return InputError(f"{path} can't be read: {error.strerror or error}; is the name right, and may you read it?")


class Cursor:
    """A place in a file that moves on as it is read, never beyond an end."""

    def __init__(self, stored: Stored, file: BinaryIO, at: int, end: int) -> None:
        self.stored, self.at, self.end, self._file = stored, at, end, file
        file.seek(at)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        self._check(length)
        read = self._file.read(length)
        self.at += length
        if len(read) != length:
            raise self.stored.damaged("it has become shorter since it was opened")
        return read

    def number(self, length: int, order: str = "big", *, signed: bool = False) -> int:
        """The next bytes as an integer."""
        return int.from_bytes(self.take(length), order, signed=signed)

    def skip(self, length: int) -> int:
        """Goes on; returns where it was."""
        self._check(length)
        start, self.at = self.at, self.at + length
        self._file.seek(self.at)
        return start

    def _check(self, length: int) -> None:
        if length > self.end - self.at:
            raise self.stored.damaged(f"{length} bytes should follow byte {self.at}, and it ends at {self.end}")


@contextmanager
def cursor(stored: Stored, at: int = 0, end: int | None = None) -> Iterator[Cursor]:
    """A cursor from a byte of the file to another."""
    try:
        with stored.path.open("rb") as file:
            yield Cursor(stored, file, at, stored.size if end is None else end)
    except OSError as error:
        raise unreadable(stored.path, error) from error
