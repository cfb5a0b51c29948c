"""A disk without room, for the files of one process alone: a limit of the operating system would hit its log too."""

import errno
import io
import os
from pathlib import Path

REASON = os.strerror(errno.ENOSPC)


class FullFile(io.FileIO):
    """A file in which nothing can be written."""

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, REASON)


def fill(monkeypatch, *suffixes: str) -> None:
    """From now on files that end so can be made with ``Path.open``, but not written."""
    opened = Path.open

    def open_full(path: Path, mode: str = "r", *rest: object, **more: object) -> object:
        return FullFile(path, mode) if path.name.endswith(suffixes) else opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", open_full)
