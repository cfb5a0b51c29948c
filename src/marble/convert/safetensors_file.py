"""Safetensors files, read and written.

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
from typing import Any

import ml_dtypes
import numpy as np

from marble.convert.stored import Stored, is_count, shown
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

METADATA = "__metadata__"
"""The key of a header that is no tensor's."""
MOST_HEADER = 2**24
"""Bytes of a header: 100,000 names take less. More is a way to fill the memory."""


def read(stored: Stored) -> dict[str, Tensor]:
    """The tensors of a safetensors file; InputError where its header is not all true."""
    header, begin = _header(stored)
    header.pop(METADATA, None)
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


def metadata_of(stored: Stored) -> dict[str, str]:
    """The texts beside the tensors in the header of a safetensors file; none where it has none."""
    metadata = _header(stored)[0].get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise stored.damaged("its metadata is not of texts")
    return metadata


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
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    places, at = {}, 0
    for name, (shape, dtype) in sorted(known.items(), key=lambda item: (rank[item[1][1]], item[0])):
        places[name] = (shape, dtype, at)
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places
