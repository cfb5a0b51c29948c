"""marble's command line in processes of its own, for the tests that kill them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np

from marble import builders, checkpoint, workdir
from marble.training.logging import TIMING_FIELDS
from marble.training.state import TrainState

TINY = ["--config", "configs/digits.py:smoke", "--config.model.channel_mult=(1,)"]
ROOT = Path(__file__).parent.parent


def marble(
    *words: object,
    within: Sequence[str] = (),
    optimised: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen:
    """Starts ``marble WORDS`` in the checkout on one device; ``within`` is a command that runs it.

    ``optimised`` has XLA compile as it does for users, for work of minutes.
    """
    return subprocess.Popen(
        [*within, sys.executable, "-m", "marble.cli.main", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **({"XLA_FLAGS": ""} if optimised else {}), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(count: int, *words: object, last: Sequence[object] = ()) -> list[subprocess.Popen]:
    """Starts ``marble WORDS`` in so many processes that are one program, one device each; the last has more words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [
        marble(*words, *(last if i == count - 1 else ()), environment={**cluster, "JAX_PROCESS_ID": str(i)})
        for i in range(count)
    ]


def all_finished(processes: Sequence[subprocess.Popen], status: int = 0) -> list[str]:
    """``finished`` for each; they are read at the same time, for a full pipe would stop one and so all."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda process: finished(process, status), processes))


def finished(process: subprocess.Popen, status: int = 0, *, timeout: float = 300) -> str:
    """Waits for a process, checks its exit status, and returns what it said on stderr."""
    _, said = process.communicate(timeout=timeout)
    assert process.returncode == status, f"exit status {process.returncode}:\n{said}"
    return said


def final_state(directory: Path) -> tuple[int, TrainState]:
    """The newest checkpoint of a run, whole."""
    config, data = workdir.recall(str(directory))
    experiment = builders.build(builders.as_now(config), data.image)
    target = jax.eval_shape(experiment.init_state)
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
