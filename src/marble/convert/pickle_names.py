"""The names that a pickle of weights may ask for, and what each becomes: none is ever imported.

A storage's or a number's type becomes a NumPy type; a name of ``BUILDERS`` is a function here, which puts a tensor's
facts together; a name of ``INERT`` becomes a thing that takes whatever is done to it and keeps nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from marble.convert.nested import LONGEST_NAME
from marble.convert.safetensors_file import DTYPES as SAFE
from marble.convert.stored import shown

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
    made = {key: value for key, value in pairs if is_name(key)}
    pairs.clear()
    return made


def is_name(key: Any) -> bool:
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
