"""Data sets written once to disk by tensorflow-datasets, and found there again.

A copy lies in `DATA_DIR/marble_NAME/KEY/VERSION`. KEY is `published` for the downloaded originals, and otherwise a
digest of the originals that the user gave: other originals make another copy, and a stale one can't pass for new.
"""

import contextlib
import difflib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marble.data import digits, folder, originals
from marble.data.download import PUBLISHED, download
from marble.errors import InputError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

EMBEDDED = "digits"
FOLDER = "image_folder"
NAMES = (EMBEDDED, *PUBLISHED, FOLDER)
TFDS_PREFIX = "tfds:"
PUBLISHED_KEY = "published"

MakeBuilder = Callable[[Path], "DatasetBuilder"]


class Prepared(NamedTuple):
    """A data set that can be read. `directory` is None for the embedded one; `fresh` where it was written just now."""

    name: str
    directory: Path | None
    splits: Mapping[str, int]
    fresh: bool


def prepare(name: str, *, source: str | Path | None = None, data_dir: str | Path | None = None) -> Prepared:
    """Writes the data set `name` below `data_dir`, once: a second call finds it and writes nothing.

    `source` is the folder of the original files; without it mnist, fashion_mnist and cifar10 are downloaded into
    `data_dir/downloads`. `data_dir` is tensorflow-datasets' own by default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    Raises InputError when the name is unknown or the originals are missing or damaged, and RunError when they
    can't be downloaded; nothing is left behind then.
    """
    check_name(name)
    if name == EMBEDDED:
        return Prepared(name, None, digits.SPLITS, fresh=False)
    if name.startswith(TFDS_PREFIX):
        raise InputError(f"{name} is not ours to prepare: prepare it with tensorflow-datasets, as 'array_record'")
    root = data_root(data_dir)
    key, make = _published(name, root) if source is None else _given(name, Path(source).expanduser())
    directory = _copies_folder(root, name) / key / _version()
    fresh = not is_prepared(directory)
    if fresh:
        _write(make, directory, root)
    return Prepared(name, directory, num_examples(directory), fresh)


def find_prepared(name: str, *, data_dir: str | Path | None = None) -> Path:
    """The prepared copy of `name`: the published one, or the only other one that its originals haven't outdated."""
    root = data_root(data_dir)
    copies = sorted(path.parent for path in _copies_folder(root, name).glob(f"*/{_version()}/dataset_info.json"))
    published = [copy for copy in copies if copy.parent.name == PUBLISHED_KEY]
    current = published or [copy for copy in copies if not (name == FOLDER and _is_outdated(copy))]
    if len(current) == 1:
        return current[0]
    options = (" --source DIR" if name == FOLDER else "") + (f" --data_dir {root}" if data_dir is not None else "")
    if current:
        listed = ", ".join(_origin(copy) for copy in current)
        raise InputError(f"{name} is prepared in {root} from several originals ({listed}): give one of them as source")
    state = f"has changed since it was prepared ({_origin(copies[-1])})" if copies else f"is not prepared in {root}"
    raise InputError(f"{name} {state}: run `marble data prepare {name}{options}`")


def check_name(name: str) -> None:
    """Raises InputError, with the nearest name, where `name` is not a data set's."""
    if name in NAMES or name.startswith(TFDS_PREFIX):
        return
    nearest = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise InputError(f"unknown data set {name!r}: {hint}there are {', '.join(NAMES)} and tfds:NAME[/CONFIG][:VERSION]")


def data_root(data_dir: str | Path | None) -> Path:
    """The folder of all prepared data sets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()


def is_prepared(directory: Path) -> bool:
    """Whether a copy is there; it is moved there whole, so that it is complete where it is."""
    return (directory / "dataset_info.json").is_file()


def num_examples(directory: Path) -> dict[str, int]:
    """How many examples each split of a copy has."""
    import tensorflow_datasets as tfds

    return {split: info.num_examples for split, info in tfds.builder_from_directory(directory).info.splits.items()}


def _given(name: str, source: Path) -> tuple[str, MakeBuilder]:
    """The key of the user's originals, and what makes their builder."""
    from marble.data import builders

    if not source.exists():
        raise InputError(f"there is no {source}: give the folder of the originals of {name}")
    if name == FOLDER:
        listing = folder.list_folder(source)
        make = partial(builders.MarbleImageFolder, listing)
        key = folder.digest(listing)
    else:
        pixels = _read_originals(name, source)
        make = partial(_pixels_builder(name), pixels)
        key = _digest(pixels)
    return key, lambda stage: make(origin=str(source.absolute()), data_dir=stage)


def _published(name: str, root: Path) -> tuple[str, MakeBuilder]:
    """The key of the published originals, and what makes their builder, by downloading them."""
    if name not in PUBLISHED:
        raise InputError(f"{name} has nothing to download: run `marble data prepare {name} --source DIR`")

    def make(stage: Path) -> "DatasetBuilder":
        files = download(PUBLISHED[name], root / "downloads" / name)
        return _pixels_builder(name)(_read_originals(name, files), origin=PUBLISHED_KEY, data_dir=stage)

    return PUBLISHED_KEY, make


def _read_originals(name: str, source: Path) -> dict[str, originals.Pixels]:
    return originals.read_cifar10(source) if name == "cifar10" else originals.read_mnist(source)


def _pixels_builder(name: str) -> Callable[..., "DatasetBuilder"]:
    from marble.data import builders

    return {
        "mnist": builders.MarbleMnist,
        "fashion_mnist": builders.MarbleFashionMnist,
        "cifar10": builders.MarbleCifar10,
    }[name]


def _write(make: MakeBuilder, directory: Path, root: Path) -> None:
    """Prepares the copy beside its place and moves it there whole, so that a failure leaves nothing behind."""
    with _stage(root) as stage, _quiet():
        builder = make(stage)
        builder.download_and_prepare(download_dir=stage / "downloads", file_format="array_record")
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(builder.data_path, directory)
        except OSError:
            # Another process may have put the same copy there in the meantime; its key says that it is the same.
            if not is_prepared(directory):
                raise


@contextlib.contextmanager
def _stage(root: Path) -> Iterator[Path]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        stage = tempfile.TemporaryDirectory(dir=root, prefix=".preparing-")
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write the data folder {root} ({error}): give another with --data_dir") from error
    with stage:
        yield Path(stage.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """tensorflow-datasets names the stage on stdout and shows bars without totals; the builders show their own."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def _digest(splits: Mapping[str, originals.Pixels]) -> str:
    digest = hashlib.sha256()
    for split, pixels in splits.items():
        digest.update(f"{split} {pixels.image.shape}".encode())
        digest.update(pixels.image)
        digest.update(np.ascontiguousarray(pixels.label))
    return digest.hexdigest()[:16]


def _copies_folder(root: Path, name: str) -> Path:
    return root / f"marble_{name}"


def _version() -> str:
    from marble.data.builders import VERSION

    return VERSION


def _origin(directory: Path) -> str:
    return json.loads((directory / "metadata.json").read_text())["origin"]


def _is_outdated(directory: Path) -> bool:
    """Whether the folder that the copy was made of is there and has changed."""
    source = Path(_origin(directory))
    return source.is_dir() and folder.digest(folder.list_folder(source)) != directory.parent.name
