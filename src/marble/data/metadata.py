"""What the metadata files of a folder of images say: metadata.jsonl, one JSON object an image, or metadata.csv.

    {"file_name": "a/1.png", "text": "a cat", "label": "cat"}          file_name,text,label
                                                                       a/1.png,a cat,cat

``file_name`` is relative to the file's own folder. ``text`` and ``label``, a class name or in JSON a class number from
0, are optional; other keys are not read.
"""

import csv
import json
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marble.errors import InputError

METADATA = ("metadata.jsonl", "metadata.csv")
MAX_CLASSES = 2**16
"""Of labels that are numbers: every class below the highest gets a name and a row of the model's table."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100


def shortened(value: Any) -> str:
    """A value in a message: what is long is cut."""
    return _SHORT.repr(value)


class Entry(NamedTuple):
    """An image of the folder: its path, its name relative to the folder, and what the metadata says about it."""

    path: Path
    name: str
    label: int | str | None
    text: str | None


def metadata_of(folder: Path) -> Path | None:
    """The metadata file of a folder; InputError where it has two."""
    found = [folder / name for name in METADATA if (folder / name).exists()]
    if len(found) > 1:
        raise InputError(f"{folder} has both {' and '.join(METADATA)}: keep one")
    return found[0] if found else None


def read_metadata(metadata: Path, root: Path) -> tuple[Entry, ...]:
    """The images that a metadata file names, in its order; their names are relative to root."""
    try:
        text = metadata.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{metadata} is not UTF-8 text ({error}): save it as UTF-8") from error
    rows = _csv_rows(text, metadata) if metadata.suffix == ".csv" else _json_rows(text, metadata)
    return tuple(_entry(row, where, metadata.parent, root) for where, row in rows)


def _json_rows(text: str, metadata: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{metadata} line {number}", _parse(line, f"{metadata} line {number}")


def _csv_rows(text: str, metadata: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        if "file_name" not in (reader.fieldnames or []):
            raise InputError(f"{metadata} line 1 has no column file_name: write file_name,text,label")
        for row in reader:
            where = f"{metadata} line {reader.line_num}"
            if not row["file_name"]:
                raise InputError(f"{where} has no file_name: write the path of the image")
            yield where, {key: value if key == "text" else value or None for key, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{metadata} line {reader.line_num} is not CSV ({error}): mend it") from error


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
        name = shortened(row["file_name"])
        raise InputError(f"{where}: there is no file {name} in {folder}; add it or take the line out")
    if label is not None and not is_label(label):
        raise InputError(
            f"{where}: label {shortened(label)} is neither a class name, of one line, nor a class number in "
            f"0..{MAX_CLASSES - 1}"
        )
    if text is not None and not is_text(text):
        raise InputError(f"{where}: text {shortened(text)} is not a string of Unicode characters")
    return Entry(path, (folder.relative_to(root) / row["file_name"]).as_posix(), label, text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system's, a folder that may not be looked into
        return False


def is_label(label: Any) -> bool:
    """tensorflow-datasets keeps one class name a line, stripped: a line break within one would make two classes."""
    if isinstance(label, int):
        return not isinstance(label, bool) and 0 <= label < MAX_CLASSES
    return is_text(label) and label.strip() == label != "" and not any(map(_is_control, label))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def is_text(text: Any) -> bool:
    """JSON can spell half a surrogate pair, which is no character and can't be stored."""
    return isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text)
