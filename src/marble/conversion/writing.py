"""What a conversion writes: a folder that is there when it is whole, networks in one precision, and a bar of bytes."""

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from marble.convert import clip, dit, files, kinds, names
from marble.convert.folder import Part, shapes_of_part, write_tensors
from marble.convert.tensors import Tensor, Tensors
from marble.data.tokenizer_files import VOCABULARIES
from marble.errors import InputError

logger = logging.getLogger(__name__)

TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ROOM = 2**20
"""Bytes that configs and headers take beside the numbers."""


class Plan(NamedTuple):
    """A conversion that was looked through and not begun."""

    what: str
    """What will be written, for the log."""
    size: int
    """Its bytes, nearly."""
    write: Callable[[Path, "Progress"], None]
    """Fills an empty folder."""


class Progress:
    """A bar of bytes on stderr, with the name of the part that is written."""

    def __init__(self, total: int, *, is_shown: bool = True) -> None:
        options = dict(unit="B", unit_scale=True, file=sys.stderr, leave=False)
        self._bar = tqdm(total=total, disable=not is_shown, **options)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def part(self, name: str) -> None:
        """What comes now."""
        self._bar.set_description(name)

    def add(self, size: int) -> None:
        """So many bytes were written, or made."""
        self._bar.update(size)


def check_new(out: Path) -> None:
    """InputError unless a folder can be made of that name: it is not there, or empty."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        kind = "a folder with something in it" if out.is_dir() else "a file"
        raise InputError(f"--out {out} is {kind}: give a new name, or remove it")


@contextlib.contextmanager
def new_folder(out: Path, size: int) -> Iterator[Path]:
    """A block that fills a folder beside out, which becomes out at its end; where it fails, nothing is left.

    InputError where out is there, can't be made, or the disk has no room for so many bytes.
    """
    check_new(out)
    out = out.absolute()
    missing = [parent for parent in out.parents if not parent.exists()]
    _check_room(out, out.parents[len(missing)], size)
    folder = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        _make(folder, out)
        yield folder
        folder.replace(out)  # onto an empty folder too
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in missing:
                parent.rmdir()
        raise


def _make(folder: Path, out: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out} can't be made: {error.strerror or error}; give another") from error


def _check_room(out: Path, existing: Path, size: int) -> None:
    free = shutil.disk_usage(existing).free
    if size + ROOM > free:
        raise InputError(
            f"--out {out} takes {in_units(size + ROOM)}, and its disk has {in_units(free)} free: make room, or give "
            "another --out"
        )


def in_units(size: int) -> str:
    """Bytes, as MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def size_of_folder(folder: Path) -> int:
    """The bytes of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size_of(tensors: Tensors, dtype: Any = None) -> int:
    """The bytes of tensors, of that dtype where they are floats."""
    return sum(math.prod(t.shape) * _dtype(t.dtype, dtype).itemsize for t in tensors.values())


def check_part(part: Part) -> None:
    """InputError unless the tensors of a network are those of its config."""
    names.check(part.table, part.tensors, shapes_of_part(part), source=str(part.path))


def size_of_part(part: Part, dtype: Any = None) -> int:
    """The bytes of its weights."""
    return size_of(_whole(part), dtype)


def with_article(name: str) -> str:
    """A class's name as a noun."""
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def write_part(folder: Path, part: Part, dtype: Any, progress: Progress, name: str) -> None:
    """Writes a network's folder in that dtype, None for each one's own, one tensor at a time; name is the bar's."""
    progress.part(name)
    tensors = _whole(part)
    if part.kind in kinds.CLIP:
        tensors = clip.as_in_file(tensors, files.read(part.path))
    tensors = names.finite(tensors, str(part.path))
    write_tensors(folder, config_in(part.config, dtype), tracked(tensors, dtype, progress))


def config_in(config: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """A config.json without the names of Flax's classes, which says that the numbers are of this dtype."""
    made = dict(config)
    if isinstance(made.get("architectures"), list):
        made["architectures"] = [str(name).removeprefix("Flax") for name in made["architectures"]]
    changed = {} if dtype is None else {key: np.dtype(dtype).name for key in ("dtype", "torch_dtype") if key in made}
    return made | changed


def tracked(tensors: Tensors, dtype: Any, progress: Progress) -> dict[str, Tensor]:
    """The tensors in that dtype where they are floats, each counted when it is read."""

    def read(name: str, tensor: Tensor) -> np.ndarray:
        array = in_dtype(name, tensor.read(), _dtype(tensor.dtype, dtype))
        progress.add(array.nbytes)
        return array

    return {
        name: Tensor(t.shape, _dtype(t.dtype, dtype), lambda name=name, t=t: read(name, t))
        for name, t in tensors.items()
    }


def in_dtype(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in that dtype; InputError where it has numbers that become infinite there."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        made = array.astype(dtype)
    if dtype == np.float16 and not np.isfinite(made).all() and np.isfinite(array).all():
        largest = float(np.abs(array.astype(np.float32)).max())
        raise InputError(f"{name} has numbers up to {largest:.4g}, and float16 ends at 65504: set --dtype bfloat16")
    return made


def copy_files(source: Path, folder: Path, chosen: tuple[str, ...]) -> None:
    """Copies the files of these names that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies a tokenizer's files, and nothing else that may lie there."""
    copy_files(source, folder, TOKENIZER_FILES)


def _whole(part: Part) -> Tensors:
    """A DiT's with the embeddings that diffusers has in every block."""
    if part.kind != dit.NAME:
        return part.tensors
    return dict(dit.with_copies(part.tensors.items(), part.model))


def _dtype(own: np.dtype, asked: Any) -> np.dtype:
    is_changed = asked is not None and jnp.issubdtype(own, jnp.floating)
    return np.dtype(asked) if is_changed else np.dtype(own)
