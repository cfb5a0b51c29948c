"""What a run writes down: metrics.jsonl and TensorBoard event files."""

import json
import logging
import operator
import os
from collections.abc import Mapping
from typing import IO, Protocol

from etils import epath
from tensorboardX import SummaryWriter

from marble.parallel.hosts import is_first

logger = logging.getLogger(__name__)

TIMING_FIELDS = ("step_seconds", "images_per_second", "step_seconds_floor", "share_of_peak")
"""The fields of metrics.jsonl in which two equal runs differ."""


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
        self._file: IO[str] = path.open("a")
        self._board = SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=step + 1)

    def has(self, step: int, name: str) -> bool:
        """Whether this metric of this step was written."""
        return (step, name) in self._written

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, on the disk when this returns, so that no checkpoint is ahead of its metrics."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self._written.update((step, name) for name in metrics)
        os.fsync(self._file.fileno())
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


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
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    temporary.replace(path)
    return kept
