"""A folder of images in the Hugging Face layout: which images it has, with which labels and captions.

    DIR/metadata.jsonl         one line an image: {"file_name": "a/1.png", "text": "a cat", "label": "cat"}
    DIR/a/1.png

`text` and `label` (a class name, or a class number from 0) are optional, the same for all lines; other keys are not
read. DIR may instead hold the folder train/ and, beside it, validation/ and test/, each with its own metadata.jsonl.
Without metadata.jsonl every image below the folder is taken, in the order of the names.
"""

import hashlib
import json
import reprlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marble.errors import InputError

METADATA = "metadata.jsonl"
SPLITS = ("train", "validation", "test")
MAX_CLASSES = 2**16
"""Of labels that are numbers: every class below the highest gets a name and a row of the model's table."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxlong = _shortened.maxother = 100


class Entry(NamedTuple):
    """An image of the folder: its path, its name relative to the folder, and what the metadata says about it."""

    path: Path
    name: str
    label: int | str | None
    text: str | None


class Folder(NamedTuple):
    """Images by split. Where they are labelled, `label` is a number and `class_names` are the classes' names."""

    path: Path
    splits: Mapping[str, tuple[Entry, ...]]
    class_names: tuple[str, ...] | None

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for entries in self.splits.values() for entry in entries)


def list_folder(path: Path) -> Folder:
    """The images of a folder; none is opened. Raises InputError where the folder or its metadata are wrong."""
    try:
        return _list(path)
    except OSError as error:
        raise InputError(f"{error.filename} can't be read ({error.strerror}): mend it or take it out") from error


def left_out(folder: Folder) -> tuple[str, ...]:
    """The names of the images beside train/, which are in no split."""
    root = folder.path
    if not (root / "train").is_dir():
        return ()
    beside = [path for path in sorted(root.iterdir()) if path.name not in SPLITS and not path.name.startswith(".")]
    below = [entry.name for path in beside if path.is_dir() for entry in _images_below(path, root)]
    return (*(path.name for path in beside if _is_image(path)), *below)


def digest(folder: Folder) -> str:
    """A short name of the folder's state: another listing, metadata, file size or file time gives another one."""
    state = [
        [split, entry.name, entry.label, entry.text, stat.st_size, stat.st_mtime_ns]
        for split, entries in folder.splits.items()
        for entry, stat in ((entry, entry.path.stat()) for entry in entries)
    ]
    return hashlib.sha256(json.dumps([folder.class_names, state]).encode()).hexdigest()[:16]


def _list(path: Path) -> Folder:
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: give a folder of images")
    split_folders = {split: path / split for split in SPLITS if (path / split).is_dir()}
    if not split_folders:
        split_folders = {"train": path}
    elif "train" not in split_folders:
        raise InputError(
            f"{path} has {' and '.join(f'{split}/' for split in split_folders)} but no train/: put the images to train "
            "on in train/, or give another folder; held-out images are not trained on"
        )
    elif (path / METADATA).exists():
        raise InputError(f"{path} has both {METADATA} and train/: give each of {', '.join(split_folders)} its own")
    splits = {split: _list_split(folder, path) for split, folder in split_folders.items()}
    _check_all_or_none(path, splits, "label")
    _check_all_or_none(path, splits, "text")
    return _number_classes(path, splits)


def _list_split(folder: Path, root: Path) -> tuple[Entry, ...]:
    metadata = folder / METADATA
    entries = _read_metadata(metadata, root) if metadata.exists() else _images_below(folder, root)
    if not entries:
        raise InputError(f"{metadata if metadata.exists() else folder} names no image: give a folder with images")
    for entry in entries:
        if not _is_text(entry.name):
            raise InputError(f"{root}: the name {_shortened.repr(entry.name)} is not Unicode: rename the file")
    return entries


def _images_below(folder: Path, root: Path) -> tuple[Entry, ...]:
    def hidden(path):
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    paths = sorted(p for p in folder.rglob("*") if _is_image(p) and not hidden(p))
    return tuple(Entry(p, p.relative_to(root).as_posix(), label=None, text=None) for p in paths)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _read_metadata(metadata: Path, root: Path) -> tuple[Entry, ...]:
    try:
        lines = metadata.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{metadata} is not UTF-8 text ({error}): save it as UTF-8") from error
    return tuple(
        _entry(_parse(line, f"{metadata} line {number}"), f"{metadata} line {number}", metadata.parent, root)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )


def _parse(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON ({error}): write one JSON object a line") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} has a number too long or brackets too deep to be read: shorten them") from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise InputError(f"{where} has no file_name: write {{'file_name': 'path of the image', ...}}")
    return row


def _entry(row: Mapping[str, Any], where: str, folder: Path, root: Path) -> Entry:
    path, label, text = folder / row["file_name"], row.get("label"), row.get("text")
    if not _is_file(path):
        name = _shortened.repr(row["file_name"])
        raise InputError(f"{where}: there is no file {name} in {folder}; add it or take the line out")
    if label is not None and not _is_label(label):
        raise InputError(
            f"{where}: label {_shortened.repr(label)} is neither a class name, of one line, nor a class number in "
            f"0..{MAX_CLASSES - 1}"
        )
    if text is not None and not _is_text(text):
        raise InputError(f"{where}: text {_shortened.repr(text)} is not a string of Unicode characters")
    return Entry(path, (folder.relative_to(root) / row["file_name"]).as_posix(), label, text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system's, a folder that may not be looked into
        return False


def _is_label(label: Any) -> bool:
    """tensorflow-datasets keeps one class name a line, stripped: a line break within one would make two classes."""
    if isinstance(label, int):
        return not isinstance(label, bool) and 0 <= label < MAX_CLASSES
    return _is_text(label) and label.strip() == label != "" and not any(map(_is_control, label))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def _is_text(text: Any) -> bool:
    """JSON can spell half a surrogate pair, which is no character and can't be stored."""
    return isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text)


def _check_all_or_none(path: Path, splits: Mapping[str, tuple[Entry, ...]], key: str) -> None:
    entries = [entry for entries in splits.values() for entry in entries]
    without = [entry.name for entry in entries if getattr(entry, key) is None]
    if 0 < len(without) < len(entries):
        raise InputError(
            f"{path}: {len(without)} of {len(entries)} images have no {key}, the first is {without[0]}: give a {key} "
            "to all or to none"
        )


def _number_classes(path: Path, splits: Mapping[str, tuple[Entry, ...]]) -> Folder:
    labels = {entry.label for entries in splits.values() for entry in entries}
    if labels == {None}:
        return Folder(path, splits, class_names=None)
    if all(isinstance(label, int) for label in labels):
        return Folder(path, splits, class_names=tuple(str(number) for number in range(max(labels) + 1)))
    if not all(isinstance(label, str) for label in labels):
        raise InputError(f"{path}: some labels are class names and some are numbers: write all in one way")
    names = tuple(sorted(labels))
    number = {name: i for i, name in enumerate(names)}
    numbered = {s: tuple(e._replace(label=number[e.label]) for e in entries) for s, entries in splits.items()}
    return Folder(path, numbered, class_names=names)
