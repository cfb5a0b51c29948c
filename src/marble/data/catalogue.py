"""The data sets that marble knows by name, and where their prepared copies lie.

A copy lies in `DATA_DIR/marble_NAME/KEY/VERSION`. KEY is `published` for the downloaded originals, and otherwise a
digest of the originals that the user gave: other originals make another copy, and a stale one can't pass for new.
"""

import difflib
import json
import os
import re
from pathlib import Path

from marble.data.download import PUBLISHED
from marble.data.folder import digest, list_folder
from marble.errors import InputError
from marble.storage import check_utf8

EMBEDDED = "digits"
FOLDER = "image_folder"
NAMES = (EMBEDDED, *PUBLISHED, FOLDER)
TFDS_PREFIX = "tfds:"
TFDS_SPELLING = "tfds:NAME[/CONFIG][:VERSION]"
PUBLISHED_KEY = "published"
STORED_VERSION = "1.0.0"
"""Of our prepared copies; to be raised when what is stored changes, so that older copies are prepared again."""

_INFO = "dataset_info.json"
_TFDS_NAME = re.compile(r"tfds:(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def check_name(name: str) -> None:
    """Raises InputError, with the nearest name, where `name` is not a data set's."""
    if name in NAMES or _TFDS_NAME.fullmatch(name):
        return
    nearest = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise InputError(f"unknown data set {name!r}: {hint}there are {', '.join(NAMES)} and {TFDS_SPELLING}")


def data_root(data_dir: str | Path | None) -> Path:
    """The folder of all prepared data sets: $TFDS_DATA_DIR or ~/tensorflow_datasets where none is given."""
    if data_dir == "":
        raise InputError("the data_dir is empty: give the folder where data sets are kept, or leave it out")
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()
    check_utf8("the data folder", str(root))
    return root


def copy_directory(root: Path, name: str, key: str) -> Path:
    """Where the copy of `name` made from the originals `key` lies."""
    return root / f"marble_{name}" / key / STORED_VERSION


def is_prepared(directory: Path) -> bool:
    """Whether a copy is there; it is moved there whole, so that it is complete where it is."""
    return (directory / _INFO).is_file()


def find_prepared(name: str, *, data_dir: str | Path | None = None) -> Path:
    """The prepared copy of `name`: the published one, or else the only one whose originals haven't changed.

    Raises InputError, with the command to run, where there is none or the choice isn't clear.
    """
    root = data_root(data_dir)
    copies = sorted(path.parent for path in root.glob(f"marble_{name}/*/{STORED_VERSION}/{_INFO}"))
    published = [copy for copy in copies if copy.parent.name == PUBLISHED_KEY]
    current = published or [copy for copy in copies if not (name == FOLDER and _is_outdated(copy))]
    if len(current) == 1:
        return current[0]
    if current:
        listed = ", ".join(_origin(copy) for copy in current)
        raise InputError(f"{name} is prepared from several originals ({listed}): give one of them as the source")
    state = f"{_origin(copies[-1])} has changed since it was prepared" if copies else f"not prepared in {root}"
    where = (" --source DIR" if name == FOLDER else "") + (f" --data_dir {root}" if data_dir is not None else "")
    raise InputError(f"{name}: {state}; run `marble data prepare {name}{where}`")


def find_tfds(name: str, *, data_dir: str | Path | None = None) -> Path:
    """The newest version, unless one is named, of a data set that tensorflow-datasets prepared elsewhere."""
    spelled = _TFDS_NAME.fullmatch(name)
    root = data_root(data_dir)
    folder = root / spelled["name"] / (spelled["config"] or "")
    versions = [path.parent for path in folder.glob(f"*/{_INFO}") if _VERSION.fullmatch(path.parent.name)]
    chosen = [path for path in versions if spelled["version"] in (None, path.name)]
    if not chosen:
        found = sorted(path.parent.relative_to(root).as_posix() for path in folder.glob(f"**/{_INFO}"))
        raise InputError(
            f"{name} is not prepared in {root} (there: {', '.join(found) or 'nothing of that name'}): prepare it with "
            "tensorflow-datasets and file_format='array_record', or give its --data_dir"
        )
    return max(chosen, key=lambda path: [int(number) for number in path.name.split(".")])


def _origin(directory: Path) -> str:
    return json.loads((directory / "metadata.json").read_text())["origin"]


def _is_outdated(directory: Path) -> bool:
    """Whether the folder that the copy was made of is there and has changed."""
    source = Path(_origin(directory))
    return source.is_dir() and digest(list_folder(source)) != directory.parent.name
