"""Data sets written once to disk by tensorflow-datasets, from the user's originals or from downloaded ones."""

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marble.data import catalogue, digits, folder, originals
from marble.data.download import PUBLISHED, download, md5
from marble.errors import InputError, RunError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

logger = logging.getLogger(__name__)

MakeBuilder = Callable[..., "DatasetBuilder"]
"""From keywords `origin`, where the originals are from, and `data_dir`, where to write."""


class Prepared(NamedTuple):
    """A data set that can be read. `directory` is None for the embedded one; `fresh` where it was written just now."""

    name: str
    directory: Path | None
    splits: Mapping[str, int]
    fresh: bool
    class_names: tuple[str, ...] | None = None
    images_by_class: Sequence[int] | None = None
    """How many images each class has; None where they were not counted."""


def prepare(name: str, *, source: str | Path | None = None, data_dir: str | Path | None = None) -> Prepared:
    """Writes the data set `name` below `data_dir`, once: a second call finds it and writes nothing.

    `source` is the folder of the original files; without it mnist, fashion_mnist and cifar10 are downloaded into
    `data_dir/downloads`. `data_dir` is tensorflow-datasets' own by default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    Raises InputError when the name is unknown or the originals are missing or damaged, and RunError when they
    can't be downloaded or the copy can't be written; nothing half-prepared is left behind.
    """
    catalogue.check_name(name)
    if source == "":
        raise InputError(f"the source is empty: give the folder of the originals of {name}, or leave it out")
    if name == catalogue.EMBEDDED:
        if source is not None:
            raise InputError(f"{name} is a part of scikit-learn and has no originals: leave the source {source} out")
        return Prepared(name, None, digits.SPLITS, fresh=False)
    if name.startswith(catalogue.TFDS_PREFIX):
        raise InputError(f"{name} is not marble's to prepare: use tensorflow-datasets with file_format='array_record'")
    root = catalogue.data_root(data_dir)
    listing = None
    if name == catalogue.FOLDER and source is not None:
        listing = _listed(Path(source).expanduser())
        key, origin, make = _of_folder(listing)
    elif source is not None:
        key, origin, make = _given(name, Path(source).expanduser())
    else:
        key, origin, make = _published(name, root)
    directory = catalogue.copy_directory(root, name, key)
    fresh = False
    if not catalogue.is_prepared(directory):
        with _stage(root) as stage, _turn(root):
            fresh = not catalogue.is_prepared(directory)  # by another process, while this one waited
            if fresh:
                _write(partial(make, origin=origin), stage, directory)
    class_names = _class_names(directory)
    counts = listing.count_by_class() if listing is not None and class_names is not None else None
    return Prepared(name, directory, num_examples(directory), fresh, class_names, counts)


def num_examples(directory: Path) -> dict[str, int]:
    """How many examples each split of a prepared data set has."""
    import tensorflow_datasets as tfds

    return {split: info.num_examples for split, info in tfds.builder_from_directory(directory).info.splits.items()}


def _class_names(directory: Path) -> tuple[str, ...] | None:
    from marble.data import stored

    return stored.class_names(stored.open_builder(directory.name, directory))


def _given(name: str, source: Path) -> tuple[str, str, MakeBuilder]:
    """Key, origin and builder of the user's originals."""
    from marble.data import builders

    _check_exists(name, source)
    pixels = _read_originals(name, source)
    _warn_of_other_originals(name, source)
    return _digest(pixels), str(source.resolve()), partial(builders.PIXELS[name], pixels)


def _listed(source: Path) -> folder.Folder:
    """The user's folder of images."""
    _check_exists(catalogue.FOLDER, source)
    listing = folder.list_folder(source)
    _tell_of_unused(listing)
    return listing


def _of_folder(listing: folder.Folder) -> tuple[str, str, MakeBuilder]:
    """Its key, origin and builder."""
    from marble.data import builders

    return folder.digest(listing), str(listing.path.resolve()), partial(builders.MarbleImageFolder, listing)


def _check_exists(name: str, source: Path) -> None:
    try:
        source.stat()
    except FileNotFoundError as error:
        raise InputError(f"there is no {source}: give the folder of the originals of {name}") from error
    except OSError as error:
        reason, spelled = error.strerror, str(source)[:100]
        raise InputError(f"cannot read {spelled} ({reason}): give the folder of the originals of {name}") from error


def _tell_of_unused(listing: folder.Folder) -> None:
    """One line for the files that are not taken, with their number."""
    parts = [f"{len(names)} {reason} (as {names[0]})" for reason, names in listing.unused.items()]
    if parts:
        logger.warning("%s: files that are not used: %s", listing.path, ", ".join(parts))
    if listing.no_classes:
        logger.warning("%s: %s", listing.path, listing.no_classes)


def _warn_of_other_originals(name: str, source: Path) -> None:
    """Of packed originals alone: no sums are published of unpacked ones."""
    packed = originals.packed_files(name, source)
    names = {file.md5: other for other, files in PUBLISHED.items() for file in files}
    for file in PUBLISHED[name]:
        path = packed.get(file.name)
        found = file.md5 if path is None else md5(path)
        if found != file.md5:
            whose = f"it is a file of {names[found]}" if found in names else f"its MD5 sum is {found}, not {file.md5}"
            logger.warning("%s is not the published %s of %s: %s", path, file.name, name, whose)


def _published(name: str, root: Path) -> tuple[str, str, MakeBuilder]:
    """Key, origin and builder of the published originals; they are downloaded when the builder is made."""
    if name not in PUBLISHED:
        raise InputError(f"{name} has nothing to download: run `marble data prepare {name} --source DIR`")

    def make(*, origin: str, data_dir: Path) -> "DatasetBuilder":
        from marble.data import builders

        files = download(PUBLISHED[name], root / "downloads" / name)
        return builders.PIXELS[name](_read_originals(name, files), origin=origin, data_dir=data_dir)

    return catalogue.PUBLISHED_KEY, catalogue.PUBLISHED_KEY, make


def _read_originals(name: str, source: Path) -> dict[str, originals.Pixels]:
    return originals.read_cifar10(source) if name == "cifar10" else originals.read_mnist(source)


def _digest(splits: Mapping[str, originals.Pixels]) -> str:
    """A short name of the contents, the same whether the files were gzipped, packed or neither."""
    digest = hashlib.sha256()
    for split, pixels in splits.items():
        digest.update(f"{split} {pixels.image.shape}".encode())
        digest.update(pixels.image)
        digest.update(np.ascontiguousarray(pixels.label))
    return digest.hexdigest()[:16]


def _write(make: MakeBuilder, stage: Path, directory: Path) -> None:
    """Prepares the copy in `stage` and moves it to its place whole."""
    builder = make(data_dir=stage)
    try:
        with _quiet():
            builder.download_and_prepare(download_dir=stage / "downloads", file_format="array_record")
    except (OSError, RuntimeError) as error:
        raise RunError(f"cannot write {directory}: {error}") from error
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(builder.data_path, directory)
    except OSError:
        # Another process may have put the same copy there in the meantime; the key says that it is the same.
        if not catalogue.is_prepared(directory):
            raise


@contextlib.contextmanager
def _stage(root: Path) -> Iterator[Path]:
    """A temporary folder beside the data sets, so that a failure leaves nothing and a move is a rename."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        stage = tempfile.TemporaryDirectory(dir=root, prefix=".preparing-")
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write the data folder {root} ({error}): give another with --data_dir") from error
    with stage:
        yield Path(stage.name)


@contextlib.contextmanager
def _turn(root: Path) -> Iterator[None]:
    """A block for one process at a time: the processes of a run start together, and one of them prepares.

    Where the file system has no locks each prepares its own copy, of which one is kept.
    """
    folder = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process, which prepares data in %s", root)
                fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


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
