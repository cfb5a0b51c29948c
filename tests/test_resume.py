"""Runs that are killed and started again end as the run that was not."""

import random
import signal
import time
from pathlib import Path

import pytest
from processes import TINY, assert_same_run, final_state, finished, marble, metrics

from marble import checkpoint
from marble.errors import EXIT_RESTART

NUM_STEPS = 120
OPTIONS = [
    f"--config.training.num_steps={NUM_STEPS}",
    "--config.training.log_every=4",
    "--config.training.eval_every=12",
    "--config.training.sample_every=0",
    "--config.training.checkpoint_every=10",
    "--config.model.dropout=0.1",
    "--config.data.flip=True",
]

pytestmark = pytest.mark.end_to_end


def start(workdir):
    return marble("train", *TINY, *OPTIONS, "--workdir", workdir)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finished(start(workdir))
    step, _ = final_state(workdir)
    assert step == NUM_STEPS and len(metrics(workdir)) == NUM_STEPS // 4 + NUM_STEPS // 12
    return workdir


def newest(workdir: Path) -> int:
    return max(checkpoint.saved_steps(str(workdir)), default=0)


def wait_until(process, condition) -> None:
    """Returns when the condition holds or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def is_saving(workdir: Path) -> bool:
    directory = workdir / "checkpoints"
    return directory.is_dir() and any(not path.name.isdigit() for path in directory.iterdir())


def kill_and_resume(workdir, seed):
    """Kills a run by SIGKILL at two random moments, every other time during a save, and lets it end."""
    rng = random.Random(seed)
    for kill in range(2):
        before = newest(workdir)
        process = start(workdir)
        kill_at = rng.randint(before, max(before, 80))
        wait_until(process, lambda step=kill_at: newest(workdir) >= step)
        if (seed + kill) % 2:
            wait_until(process, lambda: is_saving(workdir))
        else:
            time.sleep(rng.uniform(0, 0.1))
        saved = newest(workdir)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert newest(workdir) >= saved >= before
    last_save = newest(workdir)
    said = finished(start(workdir))
    assert last_save == 0 or f"from the checkpoint of step {last_save}" in said


@pytest.mark.parametrize("seed", [1])
def test_a_killed_run_ends_as_the_one_that_was_not(uninterrupted, tmp_path, seed):
    kill_and_resume(tmp_path / "run", seed)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_twenty_killed_runs_end_as_the_one_that_was_not(uninterrupted, tmp_path, seed):
    kill_and_resume(tmp_path / "run", seed)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow  # in short in tests/cli/test_main.py, of a bucket in test_buckets.py, of two in test_hosts.py
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_loses_nothing(uninterrupted, tmp_path, number):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_until(process, lambda: newest(workdir) >= 5)
    process.send_signal(number)
    began = time.monotonic()
    said = finished(process, EXIT_RESTART)
    assert time.monotonic() - began < 25
    assert f"saved step {newest(workdir)}; run the same command to go on" in said
    finished(start(workdir))
    assert_same_run(workdir, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(uninterrupted, tmp_path, damage):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_until(process, lambda: newest(workdir) >= 15)
    process.send_signal(signal.SIGTERM)
    finished(process, EXIT_RESTART)
    step = newest(workdir)
    before = sorted(checkpoint.saved_steps(str(workdir)))[-2]
    largest = max((workdir / "checkpoints" / str(step) / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    middle = len(content) // 2
    largest.write_bytes(
        {
            "truncated": content[:middle],
            "emptied": b"",
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        }[damage]
    )
    sampled = finished(marble("sample", "--workdir", workdir, "--num", 2, "--out", tmp_path / "out"))
    resumed = finished(start(workdir))
    assert f"checkpoints/{step} " in resumed and f"from the checkpoint of step {before}" in resumed
    assert (f"checkpoints/{step} " in sampled) == ("going back to the checkpoint before it" in sampled)
    assert (tmp_path / "out" / "samples.png").exists()
    assert_same_run(workdir, uninterrupted)
