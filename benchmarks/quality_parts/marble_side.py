"""marble's side: ``marble train`` itself, in a workdir that keeps a checkpoint of each point."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.quality_parts.setting import Setting
from marble import run
from marble.loading import load_params

NAME = "marble"
RECIPE = "configs/cifar10.py: Adam 2e-4 with warm-up, clip 1, average 0.9999 that begins short"


def points(setting: Setting, workdir: Path) -> Iterator[tuple[int, float, Any]]:
    """(step, seconds of training until there, averaged parameters) of each point, when all is trained.

    The seconds are those of the steps as the log has them, and before the first one all else that the run took: to
    open the data, to compile, and to save.
    """
    began = time.perf_counter()
    run.run(setting.config, str(workdir))
    whole = time.perf_counter() - began
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: setting.every * row["step_seconds"] for row in rows if "step_seconds" in row}
    seconds = whole - sum(steps.values())
    for step in sorted(steps):
        seconds += steps[step]
        yield step, seconds, load_params(str(workdir), step=step)[2]
