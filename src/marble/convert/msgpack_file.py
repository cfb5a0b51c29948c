"""Flax's msgpack files: maps whose leaves are arrays, read by walking over them; the numbers stay on the disk.

What flax.serialization writes: extension 1 is an array, packed as (shape, name of the dtype, bytes); 2 a complex number
of Python; 3 a NumPy scalar, packed as an array is; and an array of more than 2^30 bytes is a map of its pieces.
flax's own reader holds the file and the arrays at the same time, and makes any dtype that the file names.
"""

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from marble.convert.nested import DEEPEST, LONGEST_NAME, MOST_VALUES, named
from marble.convert.stored import Cursor, Stored, cursor, shown
from marble.convert.tensors import Tensor

_OWN = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_PLAIN = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
DTYPES = {name: np.dtype(name) for name in _PLAIN} | {name: np.dtype(getattr(ml_dtypes, name)) for name in _OWN}

ARRAY, SCALAR = 1, 3
CHUNKED = "__msgpack_chunked_array__"


class Binary(NamedTuple):
    """Bytes that were passed over."""

    start: int
    length: int


def read(stored: Stored) -> dict[str, Tensor]:
    """The arrays of a msgpack file, their names the keys on the way to them, joined by /."""
    with cursor(stored) as at:
        walker = _Walker(at)
        tree = walker.value(0)
        if at.at != stored.size:
            raise stored.damaged(f"its values end at byte {at.at}, and the file at {stored.size}")
    return named(stored, tree, lambda _, value: value if isinstance(value, Tensor) else None)


class _Walker:
    """Values of msgpack one after the other (https://github.com/msgpack/msgpack/blob/master/spec.md)."""

    def __init__(self, at: Cursor) -> None:
        self._at, self._stored, self._left = at, at.stored, MOST_VALUES

    def value(self, depth: int) -> Any:
        """The value at the cursor: dict, list, str, int, Tensor, Binary; None for what holds no array."""
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise self._stored.damaged("its values nest too deep, or are too many")
        code, at = self._at.number(1), self._at
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0x90 or code in (0xDE, 0xDF):
            return self._map(code & 15 if code < 0x90 else at.number(2 << (code - 0xDE)), depth)
        if code < 0xA0 or code in (0xDC, 0xDD):
            return self._list(code & 15 if code < 0xA0 else at.number(2 << (code - 0xDC)), depth)
        if code < 0xC0 or 0xD9 <= code <= 0xDB:
            return self._text(code & 31 if code < 0xC0 else at.number(1 << (code - 0xD9)))
        if 0xC4 <= code <= 0xC6:
            length = at.number(1 << (code - 0xC4))
            return Binary(at.skip(length), length)
        if 0xC7 <= code <= 0xC9:
            return self._extension(at.number(1 << (code - 0xC7)), depth)
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << (code - 0xD4), depth)
        return self._number(code)

    def _number(self, code: int) -> int | bool | None:
        """Integers and truths; None for nil and floats."""
        if 0xCC <= code <= 0xD3:
            return self._at.number(1 << (code & 3), signed=code >= 0xD0)
        if code in (0xCA, 0xCB):
            self._at.skip(4 if code == 0xCA else 8)
        elif code == 0xC1:
            raise self._stored.damaged(f"byte {self._at.at - 1} is none of msgpack")
        return {0xC2: False, 0xC3: True}.get(code)

    def _text(self, length: int) -> str | None:
        if length > LONGEST_NAME:
            self._at.skip(length)
            return None
        try:
            return self._at.take(length).decode()
        except UnicodeDecodeError as error:
            raise self._stored.damaged(f"the text before byte {self._at.at} is not UTF-8") from error

    def _list(self, length: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(length)]

    def _map(self, length: int, depth: int) -> Any:
        found: dict[str, Any] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if type(key) not in (str, int) or str(key) in found:
                raise self._stored.damaged(
                    f"the key {shown(key)} before byte {self._at.at} is no name, or is there twice"
                )
            found[str(key)] = self.value(depth + 1)
        return self._joined(found) if found.get(CHUNKED) is True else found

    def _extension(self, length: int, depth: int) -> Tensor | None:
        kind, end = self._at.number(1), self._at.at + length
        if kind not in (ARRAY, SCALAR):
            self._at.skip(length)
            return None
        packed = self.value(depth + 1)
        if self._at.at != end or not isinstance(packed, list) or len(packed) != 3:
            raise self._stored.damaged(f"the array before byte {end} is not a shape, a dtype and bytes")
        shape, dtype, binary = packed
        if not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(binary, Binary):
            raise self._stored.damaged(f"the array before byte {end} has the dtype {shown(dtype)}, or no bytes")
        return self._stored.tensor(f"the array before byte {end}", binary.start, shape, DTYPES[dtype], binary.length)

    def _joined(self, found: dict[str, Any]) -> Tensor:
        """The array of which these are the pieces."""
        shape, pieces = (_listed(found.get(key)) for key in ("shape", "chunks"))
        if not shape or not pieces or not all(isinstance(piece, Tensor) for piece in pieces):
            raise self._stored.damaged(f"the array in pieces before byte {self._at.at} lacks its shape or its pieces")
        dtype = pieces[0].dtype
        shape = self._stored.shape("an array in pieces", shape, dtype)
        sizes = [math.prod(piece.shape) for piece in pieces]
        if sum(sizes) != math.prod(shape) or any(piece.dtype != dtype for piece in pieces):
            raise self._stored.damaged(f"the array in pieces before byte {self._at.at} is not the sum of them")

        def joined() -> np.ndarray:
            whole, start = np.empty(math.prod(shape), dtype), 0
            for piece, size in zip(pieces, sizes, strict=True):
                whole[start : start + size] = piece.read().reshape(-1)
                start += size
            return whole.reshape(shape)

        return Tensor(shape, dtype, joined)


def _listed(value: Any) -> list[Any] | None:
    """A list, which flax writes as {"0": ..., "1": ...}; None for what is none."""
    if isinstance(value, dict) and list(value) == [str(i) for i in range(len(value))]:
        return list(value.values())
    return value if isinstance(value, list) else None
