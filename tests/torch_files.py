"""Writes PyTorch's checkpoints, both formats, opcode by opcode and without torch: not by what reads them."""

import struct
import zipfile
from typing import NamedTuple

import numpy as np

STORAGES = {"f": {4: "Float", 8: "Double", 2: "Half"}, "i": {8: "Long", 4: "Int", 2: "Short", 1: "Char"}}


class Call(NamedTuple):
    """What REDUCE makes of a name and arguments."""

    module: str
    name: str
    arguments: tuple = ()


class Raw(NamedTuple):
    """Opcodes as they are."""

    opcodes: bytes


class Strided(NamedTuple):
    """A tensor over the numbers of an array, in elements."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


class Pickled:
    """One pickle of protocol 2, and the storages that it names, in order."""

    def __init__(self, value, *, legacy=False):
        self.storages, self._legacy = [], legacy
        self.bytes = b"\x80\x02" + self._of(value) + b"."

    def _of(self, value):
        match value:
            case Raw(opcodes):
                return opcodes
            case Call(module, name, arguments):
                return name_of(module, name) + self._of(arguments) + b"R"
            case np.ndarray():
                strides = tuple(stride // value.itemsize for stride in np.ascontiguousarray(value).strides)
                return self._tensor(Strided(value, 0, value.shape, strides if value.ndim else ()))
            case Strided():
                return self._tensor(value)
            case dict():
                return b"}(" + b"".join(self._of(key) + self._of(item) for key, item in value.items()) + b"u"
            case list():
                return b"](" + b"".join(map(self._of, value)) + b"e"
            case tuple():
                return b"(" + b"".join(map(self._of, value)) + b"t"
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case bool() | None:
                return {True: b"\x88", False: b"\x89", None: b"N"}[value]
            case int():
                return whole(value)
            case float():
                return b"G" + struct.pack(">d", value)
        raise TypeError(type(value))

    def _tensor(self, tensor):
        storage = self.storage(tensor.storage)
        hooks = Call("collections", "OrderedDict")
        rest = (tensor.offset, tensor.shape, tensor.strides, False, hooks)
        return name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"".join(map(self._of, rest)) + b"tR"

    def storage(self, array, count=None):
        """The opcodes of a storage, one for each array, however often it is there."""
        same = [i for i, known in enumerate(self.storages) if known is array]
        key = same[0] if same else len(self.storages)
        self.storages += [] if same else [array]
        kind = {"bfloat16": "BFloat16", "bool": "Bool", "uint8": "Byte"}.get(array.dtype.name)
        name = f"{kind or STORAGES[array.dtype.kind][array.dtype.itemsize]}Storage"
        facts = self._of("storage") + name_of("torch", name) + self._of(str(key)) + self._of("cpu")
        return b"(" + facts + whole(array.size if count is None else count) + (b"N" if self._legacy else b"") + b"tQ"


def name_of(module, name):
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def whole(value):
    """An integer, as LONG1 where it needs more than 32 bits."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def write_zip(path, value, *, byteorder="little", compression=zipfile.ZIP_STORED, pickle=None):
    """The zip format; pickle, bytes, stands in the place of the value's own."""
    made = Pickled(value)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", made.bytes if pickle is None else pickle)
        archive.writestr("archive/byteorder", byteorder)
        for key, array in enumerate(made.storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path, value, *, little_endian=True, pickle=None):
    """The format of before PyTorch 1.6."""
    made = Pickled(value, legacy=True)
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [Pickled(part).bytes for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    keys = Pickled([str(i) for i in range(len(made.storages))]).bytes
    numbers = [struct.pack("<q", array.size) + array.tobytes() for array in made.storages]
    path.write_bytes(b"".join([*head, made.bytes if pickle is None else pickle, keys, *numbers]))
    return path
