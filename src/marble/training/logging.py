"""What a run writes down: metrics.jsonl and TensorBoard event files."""

import json
import logging
import os
from collections.abc import Mapping
from typing import IO

from etils import epath
from tensorboardX import SummaryWriter

logger = logging.getLogger(__name__)

TIMING_FIELDS = ("step_seconds", "images_per_second")
"""The fields of metrics.jsonl in which two equal runs differ."""


class MetricsWriter:
    """Writes one line a log to metrics.jsonl, and the same values as TensorBoard scalars."""

    def __init__(self, workdir: str, *, step: int):
        """Continues the files of a run that goes on after ``step``: what they hold of later steps is dropped."""
        path = epath.Path(workdir) / "metrics.jsonl"
        keep_lines_until(path, step)
        self._file: IO[str] = path.open("a")
        self._board = SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, on the disk when this returns, so that no checkpoint is ahead of its metrics."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def keep_lines_until(path: epath.Path, step: int) -> None:
    """Drops the lines of a metrics.jsonl that are past step, and a last line that was cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            logger.warning("dropped a line of %s that was cut short: %.40s", path, line)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(kept))
    temporary.replace(path)
