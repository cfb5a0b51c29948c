"""What is different where a path is that of an object store, such as gs://BUCKET/RUN, and not a folder."""

import contextlib
import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
from etils import epath

from marble.errors import InputError

# Or gcsfs lists a folder once, and never sees what other processes, or tensorstore in this one, write there later.
fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
# Seconds for an answer, or gcsfs waits for ever.
fsspec.config.conf["gs"].setdefault("requests_timeout", 300)

PATTERNS = "#?*[]"
"""Characters that the libraries between here and a bucket take for patterns, or for the end of a name."""


def is_remote(path: str) -> bool:
    """Whether the path is in an object store."""
    return "://" in path


def expanded(path: str | os.PathLike[str]) -> str:
    """The path with the home folder in the place of a ~ at its beginning: no shell puts it there after a =."""
    return os.path.expanduser(os.fspath(path))


def run_path(what: str, path: str | os.PathLike[str]) -> str:
    """The expanded path of a run's folder or bucket; InputError, beginning with ``what``, where none can be there."""
    path = expanded(path)
    check_reachable(what, path)
    if not is_remote(path):
        check_utf8(what, os.path.abspath(path))
    return path


def check_utf8(what: str, path: str) -> None:
    """InputError, which begins with ``what``, where the bytes of a path are not UTF-8: libraries in C++ need that."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(
            f"{what} {shown} has a name that is not UTF-8, so nothing could be saved in it: give another, or rename it"
        ) from error


def check_reachable(what: str, path: str) -> None:
    """InputError, which begins with ``what``, where the path is in an object store that this program can't reach."""
    if not is_remote(path):
        return
    scheme, _, name = path.partition("://")
    if scheme != "gs" or not name.strip("/"):
        raise InputError(f"{what} {path} is neither a folder nor in a bucket: give a folder, or gs://BUCKET/FOLDER")
    found = [character for character in PATTERNS if character in name]
    if found:
        raise InputError(f"{what} {path} has {' '.join(found)} in its name: give a name without {' '.join(PATTERNS)}")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{what} {path} is in a bucket, which needs gcsfs: pip install 'marble-diffusion[gcs]'")


def check_bucket(path: str) -> None:
    """InputError where this program may not ask what kind of bucket the path is in, which orbax does when it saves."""
    if not is_remote(path):
        return
    check_reachable("the workdir", path)
    from google.cloud import storage

    try:
        storage.Client().get_bucket(path.partition("://")[2].partition("/")[0])
    except (OSError, *store_errors()) as error:
        if may_pass(error):
            raise
        raise InputError(
            f"the bucket of {path} can't be used: {error}; it has to be there, and this machine's account needs the "
            "roles storage.objectAdmin and storage.legacyBucketReader on it"
        ) from error


def store_errors() -> tuple[type[Exception], ...]:
    """What a store, or the way to it, fails with, beside the OSErrors of files; () where gcsfs is not installed."""
    try:
        from aiohttp import ClientError
        from fsspec.exceptions import FSTimeoutError
        from gcsfs.retry import ChecksumError, HttpError, NonRetryableError
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.resumable_media import DataCorruption, InvalidResponse
        from requests import RequestException
    except ImportError:
        return ()
    of_google = (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse)
    of_gcsfs = (ChecksumError, HttpError, NonRetryableError, FSTimeoutError)
    return ClientError, RequestException, ConnectionError, socket.gaierror, *of_gcsfs, *of_google


def may_pass(error: Exception) -> bool:
    """Whether an error is a store's that does not answer or is too busy, and not one of what it refuses."""
    if isinstance(error, ValueError) and str(error).startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")):
        return True  # tensorstore's
    if not isinstance(error, store_errors()):
        return False
    from gcsfs.retry import NonRetryableError
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    if isinstance(error, (NonRetryableError, DefaultCredentialsError)):
        return False
    if isinstance(error, RefreshError):
        return error.retryable
    # The status of HTTP: gcsfs and Google's API have it themselves, requests and uploads in the response.
    code = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return not isinstance(code, int) or not 400 <= code < 500 or code in (408, 429)


def listed(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder now; [] where there is none, as an empty one of an object store is."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def move_folder(source: epath.Path, target: epath.Path, first: Sequence[str] = ()) -> None:
    """Renames a folder; in an object store, where that is not one act, its parts ``first`` go before the rest."""
    if not is_remote(str(source)):
        source.rename(target)
        return
    store, folder = fsspec.core.url_to_fs(str(source))
    _, moved = fsspec.core.url_to_fs(str(target))
    for part in (*(f"/{name}" for name in first), ""):
        files = store.find(folder + part)
        store.mv(files, [moved + file.removeprefix(folder) for file in files])


def copy_folder(source: epath.Path, target: epath.Path, *, last: str) -> None:
    """Copies a folder to where none is: of a disk by hard links where it has them, and it is there when it is whole.

    In an object store, where that is not one act, its file ``last`` is copied after the others.
    """
    if not is_remote(str(source)):
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, copy_function=_link_or_copy)
        part.rename(target)
        return
    store, folder = fsspec.core.url_to_fs(str(source))
    _, copied = fsspec.core.url_to_fs(str(target))
    files = store.find(folder)
    if not files:
        raise FileNotFoundError(f"{source} is not there")
    for group in ([file for file in files if file != f"{folder}/{last}"], [f"{folder}/{last}"]):
        store.copy(group, [copied + file.removeprefix(folder) for file in group])


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


@contextlib.contextmanager
def replaced_folder(path: epath.Path) -> Iterator[Path]:
    """A block that fills a local folder, which at its end takes the place of the one that is at path, if any."""
    with tempfile.TemporaryDirectory(prefix="marble-") as made:
        yield Path(made)
        if is_remote(str(path)):
            copy_files(Path(made), path)
            return
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        shutil.copytree(made, beside)
        if path.exists():
            path.rmtree()
        beside.rename(path)


@contextlib.contextmanager
def local_folder(path: epath.Path) -> Iterator[Path]:
    """A block in which a folder is on this machine: itself, or a copy of one in an object store."""
    if not is_remote(str(path)):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="marble-") as made:
        for file in listed(path):
            (Path(made) / file.name).write_bytes(file.read_bytes())
        yield Path(made)


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a file that is never seen half-written; in an object store no other kind is."""
    if is_remote(str(path)):
        path.write_text(text)
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.write_text(text)
    temporary.replace(path)


def copy_files(source: Path, target: epath.Path) -> None:
    """Copies the files below a local folder."""
    for file in source.rglob("*"):
        if file.is_file():
            copied = target / file.relative_to(source).as_posix()
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(file.read_bytes())


class StoredText:
    """A text file of an object store, where nothing can be appended: flush writes all of it."""

    def __init__(self, path: epath.Path):
        """Goes on after what the file holds."""
        self._path, self._text = path, path.read_text()

    def write(self, text: str) -> None:
        """Adds text."""
        self._text += text

    def flush(self) -> None:
        """Stores what was added."""
        self._path.write_text(self._text)

    def close(self) -> None:
        """Everything is stored."""
