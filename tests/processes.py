"""marble's command line in processes of its own, for the tests that kill them."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from marble import builders, checkpoint, workdir
from marble.experiments import init_state
from marble.training.logging import TIMING_FIELDS
from marble.training.state import TrainState

TINY = ["--config", "configs/digits.py:smoke"]
ROOT = Path(__file__).parent.parent


def marble(*words: object, within: Sequence[str] = (), optimised: bool = False) -> subprocess.Popen:
    """Starts ``marble WORDS`` in the checkout on one device; ``within`` is a command that runs it.

    ``optimised`` has XLA compile as it does for users, for work of minutes.
    """
    return subprocess.Popen(
        [*within, sys.executable, "-m", "marble.cli.main", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **({"XLA_FLAGS": ""} if optimised else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen, status: int = 0, *, timeout: float = 300) -> str:
    """Waits for a process, checks its exit status, and returns what it said on stderr."""
    _, said = process.communicate(timeout=timeout)
    assert process.returncode == status, f"exit status {process.returncode}:\n{said}"
    return said


def final_state(directory: Path) -> tuple[int, TrainState]:
    """The newest checkpoint of a run, whole."""
    config, image = workdir.recall(str(directory))
    experiment = builders.build(config, image)
    target = jax.eval_shape(lambda: init_state(experiment))
    step, state, damaged = checkpoint.restore_newest(str(directory), target)
    assert damaged == []
    return step, state


def metrics(directory: Path) -> list[dict]:
    """metrics.jsonl without its timing fields."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_FIELDS} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Equal to the last bit: step, every leaf of the state, and the metrics."""
    (step, state), (other_step, other_state) = final_state(one), final_state(other)
    assert step == other_step
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert metrics(one) == metrics(other)
