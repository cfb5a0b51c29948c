"""Files of weights, told apart by what is in them: safetensors, PyTorch's checkpoints, flax's msgpack, and an index.

Whatever a file holds, nothing of it is run, and what it says of sizes is checked against the file: the outcome is
tensors or an InputError.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from marble.convert import msgpack_file, safetensors_file, torch_pickle
from marble.convert.safetensors_file import parsed
from marble.convert.stored import Stored, shown, unreadable
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError

KINDS = ".safetensors, .pt, .pth, .ckpt, .bin, .msgpack or an .index.json"
MOST_LISTED = 5
MOST_INDEX = 2**24
"""Bytes of an index."""


def read(path: str | os.PathLike[str], part: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file, or of a sharded index and the files beside it; no number is read before ``Tensor.read``.

    What nests has names with / between: ``state_dict/conv.weight``, ``ema/pos_embed``, and ``0/conv.weight`` in a list.
    part is such a beginning, as "state_dict", "ema" or "0": only what is within it, by the rest of the names. What is
    no tensor is left out. InputError, one line that begins with the path, for all that is wrong.
    """
    path = Path(path)
    stored, head = _opened(path)
    tensors = _sharded(stored) if _is_index(path, head) else _single(stored, head)
    return tensors if part is None else within(tensors, part, path)


def within(tensors: Tensors, part: str, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors whose names begin with part/, without it; InputError, which begins with path, where none does."""
    found = {name.removeprefix(f"{part}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{part}/")}
    if not found:
        there = ", ".join(shown(name)[1:-1] for name in parts(tensors)) or "none: all its arrays are at the top"
        raise InputError(f"{path} has no part {part!r}; its parts are {there}")
    return found


def metadata_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the header of a safetensors file; of another file, none."""
    path = Path(path)
    stored, head = _opened(path)
    return safetensors_file.metadata_of(stored) if _is_safetensors(path, head) else {}


def parts(tensors: Tensors) -> list[str]:
    """The beginnings that names of tensors have before their first /, in order."""
    return list(dict.fromkeys(name.partition("/")[0] for name in tensors if "/" in name))


def _opened(path: Path) -> tuple[Stored, bytes]:
    """The file and its first bytes; InputError for what is none, or holds no weights at first sight."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the file of the weights in it")
        if not path.is_file():
            there = path.exists()
            raise InputError(f"{path} is {'no plain file' if there else 'not there'}: give a file of weights ({KINDS})")
        with path.open("rb") as file:
            head = file.read(512)
            stored = Stored(path, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise unreadable(path, error) from error
    if stored.size == 0:
        raise InputError(f"{path} is empty: download or copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} is a pointer of Git LFS, not the weights: run git lfs pull, or download the file itself"
        )
    if re.match(rb"\s*<(!doctype|html|\?xml|head)", head, re.IGNORECASE):
        raise InputError(f"{path} is a web page, not weights: the download failed; download the file itself")
    return stored, head


def _is_index(path: Path, head: bytes) -> bool:
    return path.name.endswith(".index.json") or (head.lstrip()[:1] == b"{" and not _is_safetensors(path, head))


def _is_safetensors(path: Path, head: bytes) -> bool:
    # The length of a header has zeros at its end, and nothing else that is read here has any in their place
    return path.suffix == ".safetensors" or (head[5:8] == b"\0\0\0" and head[8:9] == b"{")


def _is_map(head: bytes) -> bool:
    """Whether it begins as a map of msgpack: its size, and a text as the first key."""
    at = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x80 <= head[0] < 0x90 else len(head))
    return head[at : at + 1] != b"" and (0xA0 <= head[at] < 0xC0 or 0xD9 <= head[at] <= 0xDB)


def _single(stored: Stored, head: bytes) -> dict[str, Tensor]:
    """The tensors of one file."""
    if _is_safetensors(stored.path, head):
        return safetensors_file.read(stored)
    if head.startswith(b"PK"):
        return torch_pickle.read_zip(stored)
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return torch_pickle.read_legacy(stored)
    if _is_map(head) or stored.path.suffix == ".msgpack":
        return msgpack_file.read(stored)
    what = (
        "text"
        if re.fullmatch(rb"[\t\n\r -~]+", head)
        else f"of a kind that marble does not read (it begins {head[:4]!r})"
    )
    raise InputError(f"{stored.path} is {what}, not weights: give {KINDS}")


def _sharded(stored: Stored) -> dict[str, Tensor]:
    """The tensors of all files that an index lists, which must be just those that they hold."""
    if stored.size > MOST_INDEX:
        raise InputError(f"{stored.path} has {stored.size} bytes, too many for an index: give {KINDS}")
    index = parsed(stored, stored.bytes(0, stored.size).tobytes()).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise InputError(
            f"{stored.path} has no weight_map of names and files, so it is no index of weights: give {KINDS}"
        )
    tensors: dict[str, Tensor] = {}
    shards = {shard: _beside(stored, shard) for shard in index.values()}
    for shard, path in shards.items():
        file, head = _opened(path)
        if _is_index(path, head):
            raise InputError(f"{stored.path} lists {shown(shard)}, which is an index itself: correct the index")
        found = _single(file, head)
        listed = {name for name, file in index.items() if file == shard}
        _check_names(stored, "lists names that", shown(shard), "lacks", listed - set(found))
        _check_names(stored, "lacks names that", shown(shard), "holds", set(found) - listed)
        tensors.update(found)
    return {name: tensors[name] for name in index}


def _beside(stored: Stored, shard: str) -> Path:
    """A file of the index's folder; InputError for any other, before one is opened."""
    if shard in ("", ".", "..") or len(shard) > 100 or not shard.isprintable() or "/" in shard or "\\" in shard:
        raise InputError(f"{stored.path} lists the file {shown(shard)}, which is not in its folder: correct the index")
    path = stored.path.with_name(shard)
    if not path.exists():
        raise InputError(
            f"{stored.path} lists the file {shown(shard)}, which is not there: download it into the folder"
        )
    if path.name.endswith(".index.json"):
        raise InputError(f"{stored.path} lists {shown(shard)}, which is an index itself: correct the index")
    return path


def _check_names(stored: Stored, what: str, shard: str, does: str, names: Iterable[str]) -> None:
    """InputError where there are such names."""
    if names := sorted(names):
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        listed = ", ".join(shown(name)[1:-1] for name in names[:MOST_LISTED]) + more
        raise InputError(f"{stored.path} {what} {shard} {does}, {listed}: download the index and its files again")
