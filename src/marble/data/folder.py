"""A folder of images in the Hugging Face layout: which images it has, with which labels and captions.

    DIR/metadata.jsonl         one line an image: {"file_name": "a/1.png", "text": "a cat", "label": "cat"}
    DIR/a/1.png

Metadata files (see ``marble.data.metadata``) may lie in DIR or below; where there are any, they say which images are
taken, in which order; an image that has several texts has several lines. Without, every image is, in the order of the
names, and where all lie in folders that are equally deep, and of more than one name, these are the classes:
DIR/cat/1.png, DIR/dog/1.png.

DIR may instead hold folders for splits, in any case: train or training, and beside it validation, valid, val or dev,
and test, testing or eval, each of them laid out as above. Links are followed.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marble.data.metadata import METADATA, Entry, is_label, is_text, metadata_of, read_metadata, shortened
from marble.errors import InputError

logger = logging.getLogger(__name__)

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
"""The names of the folders of each split, as Hugging Face's image folder has them."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
UNREAD = frozenset({".heic", ".heif", ".avif", ".jxl", ".jp2"})
"""Of images that are not read."""


class Folder(NamedTuple):
    """Images by split. Where they are labelled, `label` is a number and `class_names` are the classes' names."""

    path: Path
    splits: Mapping[str, tuple[Entry, ...]]
    class_names: tuple[str, ...] | None
    unused: Mapping[str, tuple[str, ...]]
    """The names of the files that are not taken, by the reason."""
    no_classes: str | None = None
    """Why folders that look like classes are none."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Those of all splits."""
        return tuple(entry for entries in self.splits.values() for entry in entries)

    def count_by_class(self) -> list[int]:
        """The number of images of each class."""
        counts = Counter(entry.label for entry in self.entries)
        return [counts[label] for label in range(len(self.class_names or ()))]


def list_folder(path: Path) -> Folder:
    """The images of a folder; none is opened. Raises InputError where the folder or its metadata are wrong."""
    try:
        return _list(path)
    except OSError as error:
        raise InputError(f"{error.filename} can't be read ({error.strerror}): mend it or take it out") from error


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
    folders = _split_folders(path)
    splits, unused, reads_metadata = {}, {}, {}
    for split, folder in folders.items():
        splits[split], unused[split], reads_metadata[split] = _list_split(folder, path)
    no_classes = None
    if not any(reads_metadata.values()):
        splits, no_classes = _labelled_by_folders(splits, folders)
    files = [file for found in unused.values() for file in found]
    if folders["train"] != path:
        beside = [child for child in sorted(path.iterdir()) if child not in folders.values() and not _is_hidden(child)]
        files += [(name, f"beside {folders['train'].name}/") for child in beside for name in _names(child, path)]
    files += [(_name(link, path), "that are links to nothing") for link in _dangling(path)]
    _check_all_or_none(path, splits, "label")
    _check_all_or_none(path, splits, "text")
    reasons = dict.fromkeys(reason for _, reason in files)
    by_reason = {reason: tuple(name for name, why in files if why == reason) for reason in reasons}
    return _number_classes(path, splits)._replace(unused=by_reason, no_classes=no_classes)


def _split_folders(path: Path) -> dict[str, Path]:
    """The folder of each split; that of a folder without splits is the folder itself."""
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        folders = [child for child in sorted(path.iterdir()) if child.name.lower() in names and child.is_dir()]
        if len(folders) > 1:
            both = " and ".join(f"{folder.name}/" for folder in folders)
            raise InputError(f"{path} has {both}, which are both {split}: put their images in one of them")
        if folders:
            found[split] = folders[0]
    if not found:
        return {"train": path}
    if "train" not in found:
        raise InputError(
            f"{path} has {' and '.join(f'{folder.name}/' for folder in found.values())} but no train/: put the images "
            "to train on in train/, or give another folder; held-out images are not trained on, and classes of such "
            "names go below train/"
        )
    if metadata := metadata_of(path):
        folders = ", ".join(folder.name for folder in found.values())
        raise InputError(f"{path} has both {metadata.name} and {found['train'].name}/: give each of {folders} its own")
    return found


def _list_split(folder: Path, root: Path) -> tuple[tuple[Entry, ...], list[tuple[str, str]], bool]:
    """The images of a split; the names of the files that are not taken, each with the reason; whether by metadata."""
    files = list(files_below(folder))
    described = sorted({folder, *(path.parent for path in files if path.name in METADATA)})
    listed = [path for path in (metadata_of(parent) for parent in described) if path is not None]
    found = [path for path in files if is_image(path)]
    if listed:
        entries = tuple(entry for metadata in listed for entry in read_metadata(metadata, root))
        entries = _once(entries, root)
    else:
        entries = tuple(Entry(p, _name(p, root), label=None, text=None) for p in found)
    if not entries:
        where = listed[0] if listed else folder
        raise InputError(f"{where} names no image: give a folder with images ({', '.join(sorted(SUFFIXES))})")
    for entry in entries:
        if not is_text(entry.name):
            raise InputError(f"{root}: the name {shortened(entry.name)} is not Unicode: rename the file")
    taken = {entry.path for entry in entries}
    unnamed = [(_name(p, root), "that no line of metadata names") for p in found if p not in taken]
    others = [p for p in files if not is_image(p) and p.name not in METADATA and p not in taken]
    return entries, [*unnamed, *((_name(p, root), "of other kinds") for p in others)], bool(listed)


def files_below(folder: Path, within: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files below a folder by name, links followed and hidden ones passed over; a link to where it is, too."""
    here = os.path.realpath(folder)
    if here in within:
        return
    children = [child for child in folder.iterdir() if not _is_hidden(child)]
    yield from sorted(
        path
        for child in children
        for path in (files_below(child, (*within, here)) if child.is_dir() else [child])
        if path.is_file()
    )


def is_image(path: Path) -> bool:
    """Whether the name is that of an image of a kind that is read."""
    return path.suffix.lower() in SUFFIXES


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _names(path: Path, root: Path) -> list[str]:
    files = files_below(path) if path.is_dir() else [path]
    return [_name(file, root) for file in files if is_image(file) or file.suffix.lower() in UNREAD]


def _dangling(folder: Path) -> list[Path]:
    """Links with an image's name that lead nowhere."""
    links = (Path(here, name) for here, _, names in os.walk(folder) for name in names)
    return sorted(link for link in links if is_image(link) and not _is_hidden(link) and not link.exists())


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _labelled_by_folders(
    splits: Mapping[str, tuple[Entry, ...]], folders: Mapping[str, Path]
) -> tuple[Mapping[str, tuple[Entry, ...]], str | None]:
    """The entries, labelled by the folders that hold them where these are equally deep and have several names.

    And where only the depth is against that, why they are not.
    """
    depths = {e: len(e.path.relative_to(folders[split]).parts) for split, entries in splits.items() for e in entries}
    least, most = min(depths, key=depths.__getitem__), max(depths, key=depths.__getitem__)
    names = {entry.path.parent.name for entry in depths if depths[entry] > 1}
    if len(names) > 1 and depths[least] != depths[most]:
        return splits, f"the folders are no classes, for {least.name} and {most.name} are not equally deep"
    if depths[most] == 1 or len(names) < 2:
        return splits, None
    for name in sorted(names):
        if not is_label(name):
            raise InputError(f"the folder name {shortened(name)} can't be that of a class: rename the folder")
    labelled = lambda entry: entry._replace(label=entry.path.parent.name)  # noqa: E731
    return {split: tuple(map(labelled, entries)) for split, entries in splits.items()}, None


def _once(entries: Iterable[Entry], root: Path) -> tuple[Entry, ...]:
    """The entries, but those that another one says already: an image may have several texts, and not several labels."""
    entries = [(entry.path.resolve(), entry) for entry in entries]
    labels: dict[Path, set[Any]] = {}
    for path, entry in entries:
        labels.setdefault(path, set()).add(entry.label)
    if several := next((path for path, found in labels.items() if len(found) > 1), None):
        raise InputError(f"{root}: {several.name} is named by lines of several labels: take out all but one")
    kept: dict[tuple[Path, str | None], Entry] = {}
    for path, entry in entries:
        kept.setdefault((path, entry.text), entry)
    if len(kept) < len(entries):
        repeated = Counter(path for path, _ in entries) - Counter(path for path, _ in kept)
        first = next(iter(repeated)).name
        count = len(entries) - len(kept)
        logger.warning("%s: %d lines of metadata say what others say, as of %s: they are left out", root, count, first)
    return tuple(kept.values())


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
        return Folder(path, splits, class_names=None, unused={})
    if all(isinstance(label, int) for label in labels):
        return Folder(path, splits, tuple(str(number) for number in range(max(labels) + 1)), unused={})
    if not all(isinstance(label, str) for label in labels):
        raise InputError(f"{path}: some labels are class names and some are numbers: write all in one way")
    names = in_order(labels)
    number = {name: i for i, name in enumerate(names)}
    numbered = {s: tuple(e._replace(label=number[e.label]) for e in entries) for s, entries in splits.items()}
    return Folder(path, numbered, names, unused={})


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names as numbers where all are numbers, 2 before 10, else as text."""
    names = list(names)
    if all(name.isascii() and name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
