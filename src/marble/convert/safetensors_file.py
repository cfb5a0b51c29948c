"""Safetensors files, and a file's bytes by position, which the other formats read through too.

The format: 8 bytes of length, little-endian; that many of JSON, {name: {dtype, shape, data_offsets}}; the numbers.
Everything in the JSON is checked against the file before a number is read (https://github.com/huggingface/safetensors).
The library is not used for reading: of a name that is there twice it keeps one silently, and it hands float8 to no
NumPy.
"""

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from marble.convert.tensors import Tensor
from marble.errors import InputError

DTYPES = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
"""In the order in which the library lays out a file, from the last to the first: so all numbers are aligned."""

MOST_HEADER = 2**24
"""Bytes of a header: 100,000 names take less. More is a way to fill the memory."""
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


def read(stored: Stored) -> dict[str, Tensor]:
    """The tensors of a safetensors file; InputError where its header is not all true."""
    header, begin = _header(stored)
    header.pop("__metadata__", None)
    tensors, at = {}, begin
    places = {name: _place(stored, name, entry) for name, entry in header.items()}
    for name, (start, end, shape, dtype) in sorted(places.items(), key=lambda item: item[1][:2]):
        if begin + start != at:
            raise stored.damaged(
                f"{shown(name)} begins at byte {start} of the data, and what is before ends at {at - begin}"
            )
        tensors[name] = stored.tensor(name, at, shape, dtype, end - start)
        at = begin + end
    if at != stored.size:
        raise stored.damaged(f"its tensors end at byte {at}, and the file at {stored.size}")
    return {name: tensors[name] for name in header}


def _header(stored: Stored) -> tuple[dict[str, Any], int]:
    """The JSON, and the byte after it."""
    if stored.size < 8:
        raise stored.damaged(f"it has {stored.size} bytes, too few for a safetensors file")
    (length,) = struct.unpack("<Q", stored.bytes(0, 8).tobytes())
    if length > stored.size - 8:
        raise stored.damaged(f"its header should have {length} bytes, and {stored.size - 8} follow")
    if length > MOST_HEADER:
        raise InputError(
            f"{stored.path} has a header of {length} bytes, and marble reads {MOST_HEADER}: split the file"
        )
    return parsed(stored, stored.bytes(8, length).tobytes()), 8 + length


def parsed(stored: Stored, text: bytes) -> dict[str, Any]:
    """An object of JSON in which no name is twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise stored.damaged(f"{shown(twice)} is there twice")
        return found

    try:
        value = json.loads(text.decode(), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise stored.damaged(f"its names are not UTF-8 at byte {error.start}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise stored.damaged(
            "its header is not JSON" if isinstance(error, ValueError) else "its header nests"
        ) from error
    if not isinstance(value, dict):
        raise stored.damaged("its header is JSON, but no object")
    return value


def _place(stored: Stored, name: str, entry: Any) -> tuple[int, int, Any, np.dtype]:
    """Where a tensor begins and ends in the data, its shape and type."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise stored.damaged(f"{shown(name)} must have dtype, shape and data_offsets")
    offsets, dtype = entry["data_offsets"], entry["dtype"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)) or offsets[0] > offsets[1]:
        raise stored.damaged(f"{shown(name)} has the data_offsets {shown(offsets)}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise InputError(f"{stored.path} has {shown(name)} of the dtype {shown(dtype)}: convert it to one of {known}")
    return offsets[0], offsets[1], entry["shape"], DTYPES[dtype]


def write(
    path: str | os.PathLike[str],
    entries: Iterable[tuple[str, np.ndarray]],
    shapes: Mapping[str, tuple[Sequence[int], Any]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes names and arrays, in any order, one at a time; shapes is (shape, dtype) of each, known before.

    The file is there when it is whole: until then it has another name. InputError where its folder is not there;
    ValueError, for it is our fault, where the entries are not those of shapes.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path} can't be written: there is no folder {path.parent}; make it first")
    header, places = _laid_out(shapes, metadata)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(header)
            for name, array in entries:
                shape, dtype, start = places.pop(name, (None, None, 0))
                if shape != array.shape or dtype != array.dtype:
                    raise ValueError(f"{name} {array.shape} of {array.dtype} is not, or is no longer, to be written")
                file.seek(len(header) + start)
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                del array  # Or it would be held while the next is made
        if places:
            raise ValueError(f"{sorted(places)[:5]} were to be written, and did not come")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _laid_out(
    shapes: Mapping[str, tuple[Sequence[int], Any]], metadata: Mapping[str, str] | None
) -> tuple[bytes, dict[str, tuple[tuple[int, ...], np.dtype, int]]]:
    """The header with its length, and (shape, dtype, first byte) of each."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    rank = {dtype: -i for i, dtype in enumerate(names)}
    known = {name: (tuple(map(int, shape)), np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
    strange = [f"{name} of {dtype}" for name, (_, dtype) in known.items() if dtype not in names]
    if strange:
        raise ValueError(f"safetensors has no type for {strange[:5]}")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    places, at = {}, 0
    for name, (shape, dtype) in sorted(known.items(), key=lambda item: (rank[item[1][1]], item[0])):
        places[name] = (shape, dtype, at)
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places
