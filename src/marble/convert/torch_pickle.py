"""PyTorch's checkpoints: pickles, which are programs and are not run here, and the numbers that they tell of.

Two formats: a zip, stored and not compressed, of data.pkl and a file of numbers a storage; and, before PyTorch 1.6,
four pickles, the list of the storages' keys, and the storages, each after its length.
"""

import math
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from marble.convert.nested import named
from marble.convert.pickle_machine import MOST_PICKLED, Machine
from marble.convert.pickle_names import View
from marble.convert.stored import Stored, cursor, is_count, shown
from marble.convert.tensors import Tensor
from marble.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
"""What the older format begins with, in two pickles."""
OF_PROGRAMS = ("code/", "constants.pkl")
"""What a zip of torch.jit.save has beside its tensors."""


def read_zip(stored: Stored) -> dict[str, Tensor]:
    """The tensors of a checkpoint in PyTorch's zip format."""
    records = _records(stored)
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(f"{stored.path} is a zip, but no checkpoint of PyTorch: give .safetensors, .pt or .msgpack")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in records:
        order = stored.bytes(*records[f"{folder}byteorder"][:1], min(records[f"{folder}byteorder"][1], 16)).tobytes()
        if order != b"little":
            raise _other_order(stored, order)
    start, length = records[pickles[0]]
    if length > MOST_PICKLED:
        raise stored.damaged(f"its pickle has {length} bytes, and marble reads {MOST_PICKLED}")
    with cursor(stored, start, start + length) as at:
        tree = Machine(at).run()
    prefix = f"{folder}data/"
    storages = {name.removeprefix(prefix): record for name, record in records.items() if name.startswith(prefix)}
    return _tensors(stored, tree, storages)


def _other_order(stored: Stored, order: bytes) -> InputError:
    return InputError(f"{stored.path} has numbers in the byte order {shown(order)}: save it on a little-endian machine")


def _records(stored: Stored) -> dict[str, tuple[int, int]]:
    """(first byte, length) of each file in the zip, which must lie apart, as they are."""
    try:
        with zipfile.ZipFile(stored.path) as archive:
            entries, last = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, ValueError, struct.error, OSError, EOFError, NotImplementedError, IndexError) as error:
        raise stored.damaged(f"its zip directory can't be read ({type(error).__name__})") from error
    if any(entry.orig_filename.partition("/")[2].startswith(OF_PROGRAMS) for entry in entries):
        raise InputError(
            f"{stored.path} is a program of TorchScript's, and none is run here: give a file of its weights alone, "
            "which torch.save(torch.jit.load(FILE).state_dict(), NEW) writes"
        )
    records: dict[str, tuple[int, int]] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name, at = entry.orig_filename, entry.header_offset
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise InputError(
                f"{stored.path} has {shown(name)} compressed, which PyTorch never does: save it again by it"
            )
        header = stored.bytes(at, 30).tobytes()
        name_length, extra = struct.unpack("<HH", header[26:30])
        start = at + 30 + name_length + extra
        # Its name is there twice; and one that begins within another would make a small file large
        if header[:4] != b"PK\3\4" or at < end or name in records or start + entry.file_size > last:
            raise stored.damaged(f"{shown(name)} in its zip overlaps another, is there twice, or ends beyond it")
        records[name] = (start, entry.file_size)
        end = start + entry.file_size
    return records


def read_legacy(stored: Stored) -> dict[str, Tensor]:
    """The tensors of a checkpoint in PyTorch's format of before 1.6."""
    with cursor(stored) as at:
        magic = Machine(at).run()
        if magic != MAGIC or Machine(at).run() != PROTOCOL:
            raise InputError(f"{stored.path} is a pickle, but no checkpoint of PyTorch: give its weights alone")
        system = Machine(at).run()
        if type(system) is not dict or system.get("little_endian") is not True:
            raise _other_order(stored, b"big")
        machine = Machine(at)
        tree, keys = machine.run(), Machine(at).run()
        if type(keys) is not list:
            raise stored.damaged("it has no list of its storages")
        storages: dict[str, tuple[int, int]] = {}
        for key in keys:
            storage, count = machine.storages.get(key) if type(key) is str else None, at.number(8, "little")
            if storage is None or key in storages or count != storage.count:
                raise stored.damaged(
                    f"its storage {shown(key)} is of no tensor, is there twice, or is not as long as said"
                )
            storages[key] = (at.skip(storage.length), storage.length)
    return _tensors(stored, tree, storages)


def _tensors(stored: Stored, tree: Any, storages: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """The views within the values, as tensors; storages is (first byte, length) of each."""
    return named(
        stored, tree, lambda name, value: _tensor(stored, name, value, storages) if type(value) is View else None
    )


def _tensor(stored: Stored, name: str, view: View, storages: Mapping[str, tuple[int, int]]) -> Tensor:
    """A view, checked against its storage, and that against the file."""
    storage, offset, shape, strides, dtype = view
    shape = stored.shape(name, shape, dtype)
    if type(strides) is not tuple or len(strides) != len(shape) or not all(map(is_count, (offset, *strides))):
        raise stored.damaged(f"{shown(name)} begins at {shown(offset)} and has the strides {shown(strides)}")
    if storage.key not in storages or storage.length > storages[storage.key][1]:
        raise stored.damaged(f"{shown(name)} has a storage of {storage.length} bytes that is not in the file")
    count, has = math.prod(shape), storage.length // dtype.itemsize
    span = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if count else 0
    if count and offset + span > has:
        raise stored.damaged(f"{shown(name)} ends at {offset + span} of its storage, which has {has} numbers")
    if count > has:
        raise InputError(f"{stored.path} has {shown(name)}, which repeats its numbers: save it .contiguous()")
    start = storages[storage.key][0] + offset * dtype.itemsize if count else 0
    # NumPy checks a stride even where nothing is one step away
    steps = [stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]

    def read() -> np.ndarray:
        if not count:
            return np.empty(shape, dtype)
        return np.ascontiguousarray(
            np.ndarray(shape, dtype, stored.numbers(start, span, dtype), strides=steps)
        ).reshape(shape)

    return Tensor(shape, dtype, read)
