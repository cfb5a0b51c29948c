"""A network's folder, as diffusers and transformers write it, both ways: ``config.json`` and a file of weights.

``open_part`` opens one and reads no number yet, ``write_part`` writes one; each holds one tensor at a time.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from marble.convert import dit, files, names, safetensors_file
from marble.convert.flax_names import of_flax
from marble.convert.kinds import KINDS, Config, kind_of, shapes_of
from marble.convert.names import Table
from marble.convert.published import told_of
from marble.convert.tensors import Tensors
from marble.convert.values import check_values
from marble.errors import InputError
from marble.storage import is_remote

logger = logging.getLogger(__name__)

CONFIG = "config.json"
THEIR_NAMES = ("diffusion_pytorch_model", "model")
"""diffusers' and transformers'."""
PICKLES = ("diffusion_pytorch_model", "pytorch_model")
WEIGHTS = (
    *(f"{name}.safetensors" for name in THEIR_NAMES),
    *(f"{name}.safetensors.index.json" for name in THEIR_NAMES),
    *(f"{name}.bin{end}" for name in PICKLES for end in ("", ".index.json")),
    *(f"{name}.fp16.safetensors" for name in THEIR_NAMES),
    *(f"{name}.safetensors.{end}.json" for name in THEIR_NAMES for end in ("index.fp16", "fp16.index")),
    *(f"{name}.fp16.bin" for name in PICKLES),
    "diffusion_flax_model.msgpack",
    "flax_model.msgpack",
)
"""The files that weights are in, the one that is taken first: those in full precision before those in half of it."""

MOST_MISSING = 4
"""Arrays that a config may ask for, for each that there is, to be told which are not there."""


class Part(NamedTuple):
    """A network in a folder."""

    model: nn.Module
    config: dict[str, Any]
    """Their config.json."""
    tensors: Tensors
    """By the names of the table, not read yet."""
    table: Table
    kind: str
    """Their class."""
    path: Path
    """Of the weights."""

    @property
    def described_in(self) -> Path:
        """The file that says its architecture: config.json, or the weights where there is none beside them."""
        beside = self.path.parent / CONFIG
        return beside if beside.is_file() else self.path


def open_part(folder: str | os.PathLike[str], **fields: Any) -> Part:
    """The network of a folder that has config.json and weights; fields are of what no config says, such as dtype.

    InputError, which begins with the folder or the file, for a class that is not supported, or weights that are not
    there.
    """
    if is_remote(os.fspath(folder)):
        raise InputError(f"{folder} is in a bucket, and networks' folders are read from this machine: copy it here")
    folder = Path(folder)
    config, kind = config_and_kind(folder)
    model = model_of(folder, config, kind, **fields)
    path = _weights(folder)
    tensors = files.read(path)
    tensors = of_flax(tensors) if path.suffix == ".msgpack" else tensors
    tensors = KINDS[kind].as_now(tensors, model, str(path))
    return Part(model, config, tensors, KINDS[kind].table(model, config), kind, path)


def params_of_part(part: Part, dtype: Any = np.float32) -> Any:
    """Its parameters, arrays on the host of that dtype; InputError where the weights don't fit the config."""
    shapes = shapes_of_part(part)
    return names.params_of(part.table, part.tensors, shapes, dtype=dtype, source=str(part.path))


def shapes_of_part(part: Part) -> Any:
    """The shapes of its parameters; InputError, which begins with the file, for a config that is no network.

    A config that asks for many more arrays than its file has is refused before its layers are traced, one by one.
    """
    if len(part.table) > MOST_MISSING * len(part.tensors):
        raise InputError(
            f"{part.path} has {len(part.tensors)} arrays, and {part.described_in.name} asks for {len(part.table)}: "
            "they are not of one network"
        )
    with told_of(part.described_in):
        return shapes_of(part.model, part.config, part.kind)


def write_part(folder: str | os.PathLike[str], config: Config, table: Table, params: Any, *, dtype: Any = None) -> Path:
    """Writes config.json and the weights, of that dtype (None keeps each one's), one tensor at a time; their path.

    config is theirs, as the ``config_of`` of the network makes it, and names the class.
    """
    ours = names.flat(params)
    kinds = {path: (ours[path].shape, np.dtype(dtype or ours[path].dtype)) for path in ours}
    names.check_paths(table, ours)
    shapes = {theirs: (names.shape_of(kinds[path][0], layout), kinds[path][1]) for path, theirs, layout in table}
    entries, shapes = _with_copies(config, names.tensors_of(table, params, dtype=dtype), shapes)
    return _write(Path(folder), config, entries, shapes)


def write_tensors(folder: str | os.PathLike[str], config: Config, tensors: Tensors, *, dtype: Any = None) -> Path:
    """The same of tensors by their names, which may lie in a file still."""
    shapes = {name: (tensor.shape, np.dtype(dtype or tensor.dtype)) for name, tensor in tensors.items()}
    entries = ((name, np.asarray(tensor.read(), shapes[name][1])) for name, tensor in tensors.items())
    return _write(Path(folder), config, entries, shapes)


def config_and_kind(folder: Path) -> tuple[dict[str, Any], str]:
    """(config.json, the class that it names) of a network's folder; InputError where it is not supported."""
    config = read_published(folder / CONFIG, "give a network's folder, of diffusers or transformers")
    kind = kind_of(config, str(folder))
    return config | ({"_class_name": kind} if "_class_name" in config else {}), kind


def model_of(folder: Path, config: Config, kind: str, **fields: Any) -> Any:
    """The network of a config; InputError, which begins with the file, for what is not supported."""
    with told_of(folder / CONFIG):
        return KINDS[kind].model(config, **fields)


def read_published(path: Path, remedy: str) -> dict[str, Any]:
    """The same as ``read_json`` of a config that marble knows the keys of; InputError for values that can't be."""
    config = read_json(path, remedy)
    check_values(config, str(path))
    return config


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file; InputError where there is none, with the remedy if there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: {remedy}") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: download or copy it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is JSON, but no object: download or copy it again")
    return found


def _weights(folder: Path) -> Path:
    there = [folder / name for name in WEIGHTS if (folder / name).exists()]
    if not there:
        raise InputError(
            f"{folder} has no weights: download them into it, {WEIGHTS[0]} or, of transformers' networks, {WEIGHTS[1]}"
        )
    if "fp16" in there[0].name:
        logger.info("%s has weights in half precision alone: %s is read", folder, there[0].name)
    return there[0]


def _write(
    folder: Path,
    config: Config,
    entries: Iterable[tuple[str, np.ndarray]],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be made: {error.strerror or error}; give another folder") from error
    path = folder / f"{THEIR_NAMES['_class_name' not in config]}.safetensors"
    # transformers opens no file that doesn't say so.
    safetensors_file.write(path, entries, shapes, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _with_copies(
    config: Config, entries: Iterator[tuple[str, np.ndarray]], shapes: dict[str, Any]
) -> tuple[Iterable[tuple[str, np.ndarray]], dict[str, Any]]:
    """A DiT's with the embeddings that diffusers has in every block."""
    if config.get("_class_name") != dit.NAME:
        return entries, shapes
    model = dit.model_of(config)
    return dit.with_copies(entries, model), dict(dit.with_copies(shapes.items(), model))
