"""What a run writes down: metrics.jsonl and TensorBoard event files."""

import json
import logging
import operator
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from etils import epath

from marble import strict_json
from marble.parallel.agreement import is_first
from marble.storage import StoredText, copy_files, is_remote, replace_text

logger = logging.getLogger(__name__)

TIMING_FIELDS = ("step_seconds", "images_per_second", "step_seconds_floor", "share_of_peak", "measure_seconds")
"""The fields of metrics.jsonl in which two equal runs differ."""


COPY_SECONDS = 60.0
"""How often event files are copied to an object store."""


class Writer(Protocol):
    """Where metrics go."""

    def has(self, step: int, name: str) -> bool:
        """Whether this metric of this step was written."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps one line of metrics."""

    def close(self) -> None:
        """Nothing comes after this."""


def open_writer(workdir: str, *, step: int) -> Writer:
    """The writer of a run that goes on after step: of several processes, the first's writes and the others' do not."""
    return MetricsWriter(workdir, step=step) if is_first() else SilentWriter()


class SilentWriter:
    """Writes nothing."""

    def has(self, step: int, name: str) -> bool:
        """It does not know: ask the first process."""
        return False

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class MetricsWriter:
    """Writes one line a log to metrics.jsonl, and the same values as TensorBoard scalars."""

    def __init__(self, workdir: str, *, step: int):
        """Continues the files of a run that goes on after ``step``: what they hold of later steps is dropped."""
        path = epath.Path(workdir) / "metrics.jsonl"
        kept = keep_lines_until(path, step)
        self._written = {(line["step"], name) for line in kept for name in line}
        self._file = StoredText(path) if is_remote(workdir) else path.open("a")
        self._board = Board(epath.Path(workdir) / "tensorboard", step)

    def has(self, step: int, name: str) -> bool:
        """Whether this metric of this step was written."""
        return (step, name) in self._written

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, on the disk when this returns, so that no checkpoint is ahead of its metrics. NaN becomes null."""
        self._file.write(strict_json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self._written.update((step, name) for name in metrics)
        if not isinstance(self._file, StoredText):
            os.fsync(self._file.fileno())
        self._board.write(step, metrics)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


class Board:
    """TensorBoard event files, of an object store by way of this machine's disk."""

    def __init__(self, folder: epath.Path, step: int):
        from tensorboardX import SummaryWriter  # which also brings clients of clouds

        self._folder, self._copied = folder, time.monotonic()
        self._local = tempfile.TemporaryDirectory(prefix="marble-") if is_remote(str(folder)) else None
        self._writer = SummaryWriter(self._local.name if self._local else str(folder), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        if self._local and time.monotonic() - self._copied > COPY_SECONDS:
            self._copy()

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()
        if self._local:
            self._copy()
            self._local.cleanup()

    def _copy(self) -> None:
        self._copied = time.monotonic()
        copy_files(Path(self._local.name), self._folder)


def keep_lines_until(path: epath.Path, step: int) -> list[dict]:
    """Drops the lines of a metrics.jsonl that are past step, and any that is damaged; returns the others."""
    kept = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
            kept.append({"step": operator.index(values["step"]), **values})
        except (ValueError, TypeError, KeyError):
            logger.warning("dropped a line of %s that is damaged: %.40r", path, line)
    kept = [line for line in kept if line["step"] <= step]
    replace_text(path, "".join(strict_json.dumps(line) + "\n" for line in kept))
    return kept
