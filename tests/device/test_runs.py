"""Runs on this device, bit for bit: the same twice, and one that was killed beside one that was not."""

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, assert_same_run

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.end_to_end]
WORDS = [
    *("--config", "digits:smoke", "--config.training.deterministic=True", "--config.training.num_steps=40"),
    *("--config.training.checkpoint_every=5", "--config.training.log_every=5", "--config.training.eval_every=0"),
    *("--config.training.sample_every=0", "--config.model.channels=32", "--config.model.num_groups=8"),
]


def train(workdir):
    return subprocess.Popen(
        [sys.executable, "-m", "marble.cli.main", "train", *WORDS, "--workdir", str(workdir)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stderr=subprocess.DEVNULL,
    )


def test_runs_are_the_same_twice_and_when_they_were_killed(tmp_path):
    for name in ("one", "two"):
        assert train(tmp_path / name).wait(timeout=300) == 0
    assert_same_run(tmp_path / "one", tmp_path / "two")
    killed = train(tmp_path / "killed")
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "checkpoints" / "5").is_dir() and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert train(tmp_path / "killed").wait(timeout=300) == 0
    assert_same_run(tmp_path / "one", tmp_path / "killed")
