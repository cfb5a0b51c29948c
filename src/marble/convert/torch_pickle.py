"""PyTorch's checkpoints, which are pickles: programs. This reads them by a machine of its own, which runs nothing.

The machine knows the opcodes of ``OPCODES``, and can call what is in ``BUILDERS``: each of them puts a tensor's facts
together. A name in ``INERT`` becomes a thing that takes whatever is done to it and keeps nothing. Any other name is
refused, and no name is ever imported. Python's own Unpickler with find_class overridden would not do: nine bytes (a
memo entry of a high number) make it take 4 GB, and tuples nested a million deep, as a key, end the process.

Two formats: a zip, stored and not compressed, of data.pkl and a file of numbers a storage; and, before PyTorch 1.6,
four pickles, the list of the storages' keys, and the storages, each after its length.
"""

import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from marble.convert.msgpack_file import LONGEST_NAME, Cursor, cursor, flat
from marble.convert.safetensors_file import DTYPES as SAFE
from marble.convert.safetensors_file import Stored, is_count, shown
from marble.convert.tensors import Tensor
from marble.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MOST_PICKLED = 2**26
"""Bytes of one pickle, without the storages: 2^20 is much."""
MOST_OPCODES = 4_000_000
"""Of one pickle: some 40 make a tensor."""

STORAGES = {
    ("torch", f"{name}Storage"): SAFE[dtype]
    for name, dtype in {
        **{"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "ComplexFloat": "C64"},
        **{"Long": "I64", "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"},
    }.items()
}
UNTYPED = {("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage")}
TYPES = {
    ("torch", name): SAFE[dtype]
    for name, dtype in {
        **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64"},
        **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL"},
        **{"uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8"},
        **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    }.items()
}
INERT = frozenset(
    (module, name)
    for module, names in {
        "torch": "device",
        "torch.serialization": "_get_layout",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray": "scalar _reconstruct",
        "numpy._core.multiarray": "scalar _reconstruct",
        "_codecs": "encode",
        "copyreg": "_reconstructor",
        "copy_reg": "_reconstructor",
        "collections": "defaultdict Counter",
        "argparse": "Namespace",
        "typing": "Any",
        "__builtin__": "object dict list tuple set frozenset int float str bool complex bytearray",
        "builtins": "object dict list tuple set frozenset int float str bool complex bytearray",
        "pathlib": "Path PosixPath PurePosixPath WindowsPath",
        "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
        "pytorch_lightning.utilities.parsing": "AttributeDict",
        "pytorch_lightning.utilities.enums": "LightningEnum",
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.listconfig": "ListConfig",
        "omegaconf.base": "ContainerMetadata Metadata",
        "omegaconf.nodes": "AnyNode StringNode IntegerNode FloatNode BooleanNode",
    }.items()
    for name in names.split()
)
"""What training leaves in checkpoints beside the weights. Here they are names alone: nothing of these is called."""


class Global(NamedTuple):
    """A name that a pickle asks for."""

    module: str
    name: str


class Inert:
    """What a name of INERT, and all that is made of it, becomes."""


NOTHING = Inert()


class Storage(NamedTuple):
    """Numbers in a row, somewhere in the file; without a type, count is bytes."""

    key: str
    dtype: np.dtype | None
    count: int

    @property
    def length(self) -> int:
        """Its bytes."""
        return self.count * (self.dtype.itemsize if self.dtype else 1)


class View(NamedTuple):
    """A tensor as the pickle tells of it, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> View:
    if type(storage) is not Storage or storage.dtype is None:
        raise ValueError("a tensor has no storage")
    return View(storage, offset, shape, strides, storage.dtype)


def _typed_view(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> View:
    if type(storage) is not Storage or type(dtype) is not Global or dtype not in TYPES:
        raise ValueError(f"a tensor has the type {shown(dtype)}")
    return View(storage, offset, shape, strides, TYPES[dtype])


def _parameter(view: Any, *_: Any) -> View:
    if type(view) is not View:
        raise ValueError("a parameter has no tensor")
    return view


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    if type(sizes) is not tuple:
        raise ValueError(f"a size is {shown(sizes)}")
    return sizes


def _ordered(pairs: Any = None) -> dict[Any, Any]:
    """Python 2 gave it a list of pairs, which is emptied: one used again and again would fill the memory."""
    if pairs is None:
        return {}
    if type(pairs) is not list or any(type(pair) not in (tuple, list) or len(pair) != 2 for pair in pairs):
        raise ValueError("an OrderedDict is not made of pairs")
    made = {key: value for key, value in pairs if _is_name(key)}
    pairs.clear()
    return made


def _is_name(key: Any) -> bool:
    """Whether a key can be part of a tensor's name: the hash of a nested tuple would need Python's own stack."""
    if type(key) is str and len(key) > LONGEST_NAME:
        raise ValueError(f"a name of {len(key)} characters")
    return type(key) in (str, int)


BUILDERS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _view,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_view,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _ordered,
}
KNOWN = {*BUILDERS, *STORAGES, *UNTYPED, *TYPES}


class Machine:
    """One pickle, from a cursor: its values are dict, list, tuple, str, bytes, numbers, and the classes above."""

    def __init__(self, at: Cursor) -> None:
        self._at = at
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        """All that the pickle named, also those of no tensor."""

    def run(self) -> Any:
        """The value; InputError for what is no such pickle, and for a name that is not known."""
        end = self._at.end
        self._at.end = min(end, self._at.at + MOST_PICKLED)
        try:
            for _ in range(MOST_OPCODES):
                code = self._at.take(1)
                if code == b".":
                    return self._stack.pop()
                if code not in OPCODES:
                    raise ValueError(f"the opcode {code!r} is none that weights need")
                OPCODES[code](self)
        except (ValueError, TypeError, IndexError, KeyError, struct.error) as error:
            if isinstance(error, InputError):
                raise
            raise self._at.stored.damaged(f"its pickle fails before byte {self._at.at}: {_reason(error)}") from error
        finally:
            self._at.end = end
        raise InputError(f"{self._at.stored.path} has a pickle that is too long for weights; nothing was run: leave it")

    def number(self, length: int) -> int:
        return self._at.number(length, "little")

    def text(self, length: int) -> None:
        self.push(self._at.take(length).decode())

    def old_text(self, length: int) -> None:
        self.push(self._at.take(length).decode("latin-1"))

    def data(self, length: int) -> None:
        self._at.skip(length)
        self.push(NOTHING)  # Bytes are no weights

    def integer(self, length: int) -> None:
        if length > 16:
            raise ValueError(f"a number of {length} bytes")
        self.push(int.from_bytes(self._at.take(length), "little", signed=True))

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def frame(self) -> None:
        length = self.number(8)
        if length > self._at.end - self._at.at:
            raise ValueError(f"a frame of {length} bytes")

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def items(self) -> list[Any]:
        """What stands after the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def drop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.items()

    def taken(self, count: int) -> None:
        if count > len(self._stack):
            raise IndexError
        items = self._stack[-count:]
        del self._stack[-count:]
        self.push(tuple(items))

    def dictionary(self) -> None:
        items = self.items()
        self.push({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is dict and len(items) % 2 == 0:
            target.update({k: v for k, v in zip(items[::2], items[1::2], strict=True) if _is_name(k)})
        elif target is not NOTHING:
            raise ValueError(f"items are set in {shown(target)}")

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif target is not NOTHING:
            raise ValueError(f"{shown(target)} is appended to")

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def global_line(self) -> None:
        self.find(self._line(), self._line())

    def _line(self) -> str:
        read = bytearray()
        while (byte := self._at.take(1)) != b"\n":
            read += byte
            if len(read) > 200:
                raise ValueError("a name of more than 200 bytes")
        return read.decode()

    def global_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name is no text")
        self.find(module, name)

    def find(self, module: str, name: str) -> None:
        """Puts a name on the stack. Nothing is imported, whatever it is."""
        if (module, name) in INERT:
            self.push(NOTHING)
        elif (module, name) in KNOWN:
            self.push(Global(module, name))
        else:
            raise InputError(
                f"{self._at.stored.path} asks for {shown(f'{module}.{name}')[1:-1]}, which weights don't need; nothing "
                "was run: if you trust the file, save its weights as .safetensors where it was made"
            )

    def reduce(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if called is NOTHING:
            self.push(NOTHING)
        elif type(called) is Global and called in BUILDERS and type(arguments) is tuple and len(arguments) <= 16:
            self.push(BUILDERS[called](*arguments))
        else:
            raise ValueError(f"{shown(called)} is called")

    def new(self, count: int) -> None:
        if self._stack[-count] is not NOTHING:
            raise ValueError(f"{shown(self._stack[-count])} is made")
        del self._stack[-count:]
        self.push(NOTHING)

    def build(self) -> None:
        """Gives an object a state: what keeps none stays as it is (an OrderedDict has one beside its items)."""
        self._stack.pop()
        if self._stack[-1] is not NOTHING and type(self._stack[-1]) is not dict:
            raise ValueError(f"{shown(self._stack[-1])} is given a state")

    def persistent(self) -> None:
        """The storage that a tuple tells of: ("storage", its type, its key, the device, its length)."""
        facts = self._stack.pop()
        if type(facts) is not tuple or not 5 <= len(facts) <= 6 or facts[0] != "storage":
            raise ValueError(f"a storage is {shown(facts)}")
        _, kind, key, _, count, *part = facts
        if type(kind) is not Global or (kind not in STORAGES and kind not in UNTYPED):
            raise ValueError(f"a storage is of the type {shown(kind)}")
        if type(key) is not str or not is_count(count) or (len(part) == 1 and part[0] is not None):
            raise ValueError(f"a storage is {shown(facts)}, or a part of another")
        storage = Storage(key, STORAGES.get(kind), count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage {shown(key)} is there as two")
        self.push(storage)


OPCODES: Mapping[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.number(1),
    b"\x95": Machine.frame,
    b"(": Machine.mark,
    b"0": Machine.drop,
    b"1": lambda m: m.items(),
    b"2": lambda m: m.push(m._stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.integer(4),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": lambda m: m.integer(m.number(1)),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m._at.take(8))[0]),
    b"U": lambda m: m.old_text(m.number(1)),
    b"T": lambda m: m.old_text(m.number(4)),
    b"\x8c": lambda m: m.text(m.number(1)),
    b"X": lambda m: m.text(m.number(4)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"C": lambda m: m.data(m.number(1)),
    b"B": lambda m: m.data(m.number(4)),
    b"\x8e": lambda m: m.data(m.number(8)),
    b"\x96": lambda m: m.data(m.number(8)),
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(NOTHING),
    b"t": lambda m: m.push(tuple(m.items())),
    b"\x85": lambda m: m.taken(1),
    b"\x86": lambda m: m.taken(2),
    b"\x87": lambda m: m.taken(3),
    b"l": lambda m: m.push(m.items()),
    b"d": Machine.dictionary,
    b"a": lambda m: m.append([m._stack.pop()]),
    b"e": lambda m: m.append(m.items()),
    b"s": lambda m: m.set_items([*reversed((m._stack.pop(), m._stack.pop()))]),
    b"u": lambda m: m.set_items(m.items()),
    b"\x90": lambda m: m.append(m.items()),
    b"\x91": lambda m: (m.items(), m.push(NOTHING)),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m._memo)),
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"c": Machine.global_line,
    b"\x93": Machine.global_stack,
    b"R": Machine.reduce,
    b"\x81": lambda m: m.new(2),
    b"\x92": lambda m: m.new(3),
    b"b": Machine.build,
    b"Q": Machine.persistent,
}
"""All that a pickle can do here. No extension codes (82-84), no INST or OBJ, no text forms of numbers."""


def _reason(error: Exception) -> str:
    """The words of our own errors; a class for those of Python, whose words may hold what the file says."""
    if isinstance(error, IndexError | KeyError):
        return "it takes what is not there"
    return "its text is not UTF-8" if isinstance(error, UnicodeDecodeError) else shown(str(error))[1:-1]


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
    return flat(
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
