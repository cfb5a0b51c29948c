"""What is kept of what is measured in training, with scripted numbers: no program is compiled here."""

import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import optax
import pytest

from marble import checkpoint
from marble.errors import InputError, RunError
from marble.training import best, intervals
from marble.training.config import EvaluationConfig, TrainingConfig
from marble.training.interruption import Interrupted, Interruption
from marble.training.logging import TIMING_FIELDS
from marble.training.measuring import Measured
from marble.training.operation import Watchdog
from marble.training.state import TrainState

OPTIMIZER = optax.sgd(0.1)


def state_at(step):
    """A state that tells its step."""
    made = TrainState.create({"w": jnp.zeros(3)}, OPTIMIZER)
    window = {**made.window, "num_steps": jnp.int32(2)}
    return made.replace(step=jnp.int32(step), ema_params={"w": jnp.full(3, float(step))}, window=window)


def train(workdir, values, *, start=0, end=None, interruption=None, measure=None, higher=False, training=(), **config):
    """Goes through steps; what is measured at each multiple of 2 is in values, by step."""
    end = max(values) if end is None else end
    workdir.mkdir(exist_ok=True)
    names = {"fd": "FD-fake", "is": "IS-fake"}

    def scripted(params, step):
        assert float(params["w"][0]) == step
        value, protocol = values[step], {"num": options.num}
        entry = {"value": value, "stamp": protocol}
        return [Measured(metric, names[metric], value, higher, protocol, entry) for metric in options.metrics]

    options = EvaluationConfig(**{"every": 2, **config})
    hooks = intervals.Hooks(lambda step: 0.1, None, None, measure or scripted, lambda window: {})
    usual = dict(
        batch_size=8, num_steps=max(values), ema_decay=0.9, log_every=2, checkpoint_every=0, keep_checkpoints=1
    )
    settings = TrainingConfig(**usual | dict(training))
    workdir.mkdir(exist_ok=True)
    interruption = interruption or Interruption()
    watchdog = Watchdog(0, start)
    beside = dict(config=settings, evaluation=options, hooks=hooks, interruption=interruption, watchdog=watchdog)
    with intervals.opened(str(workdir), start, **beside) as opened:
        opened.begin(start, state_at(start), floor=None)
        for step in range(start + 1, end + 1):
            opened.after(step, state_at(step))
            if interruption.requested:
                opened.stop(step, state_at(step))


def target():
    return {"ema_params": jax.eval_shape(lambda: state_at(0).ema_params)}


def kept(workdir):
    """Values by step as best.json has them, in its order, of copies that are whole."""
    found = json.loads((workdir / "best" / "best.json").read_text())["values"]
    for step in found:
        restored = checkpoint.restore(str(workdir), int(step), target(), folder="best")
        assert (restored["ema_params"]["w"] == float(step)).all()
    return {int(step): value for step, value in found.items()}


def copies(workdir):
    return {path.name for path in (workdir / "best").iterdir()} - {"best.json"}


def lines(workdir, name="metrics.jsonl"):
    found = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_FIELDS} for line in found]


VALUES = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.0, 10: 9.0}


@pytest.mark.parametrize(
    ("higher", "num", "expected"),
    [(False, 1, [4]), (False, 3, [4, 8, 6]), (True, 2, [10, 2]), (True, 9, [10, 2, 6, 4, 8])],
)
def test_the_best_are_kept_beside_the_newest(tmp_path, higher, num, expected):
    train(tmp_path, VALUES, higher=higher, keep_best=num)
    assert kept(tmp_path) == {step: VALUES[step] for step in expected} and list(kept(tmp_path)) == expected
    assert copies(tmp_path) == {str(step) for step in expected}
    assert checkpoint.saved_steps(str(tmp_path)) == [10]
    measured = {line["step"]: line["FD-fake"] for line in lines(tmp_path) if "FD-fake" in line}
    assert measured == VALUES and measured == {
        line["step"]: line["value"] for line in lines(tmp_path, "measured.jsonl")
    }
    step, state = best.restore_best(str(tmp_path), target())
    assert step == expected[0] and (state["ema_params"]["w"] == expected[0]).all()


def test_without_a_deciding_metric_nothing_is_kept_and_all_is_measured(tmp_path):
    train(tmp_path, VALUES, best=None)
    assert not (tmp_path / "best").exists() and len(lines(tmp_path, "measured.jsonl")) == 5


def test_the_metric_that_is_named_decides(tmp_path):
    train(tmp_path, VALUES, metrics=("fd", "is"), best="is")
    assert json.loads((tmp_path / "best" / "best.json").read_text())["name"] == "IS-fake"


def test_what_is_no_number_is_never_the_best(tmp_path):
    train(tmp_path, {2: float("nan"), 4: float("inf"), 6: 7.0, 8: float("nan")}, keep_best=4)
    assert kept(tmp_path) == {6: 7.0}
    assert [line["FD-fake"] for line in lines(tmp_path) if "FD-fake" in line] == [None, None, 7.0, None]


def test_what_is_measured_is_saved_whatever_the_interval_of_checkpoints(tmp_path):
    train(tmp_path, VALUES, training={"checkpoint_every": 4, "keep_checkpoints": 9}, end=9)
    assert checkpoint.saved_steps(str(tmp_path)) == [8, 6, 4, 2]


def test_a_run_stopped_while_it_measures_measures_when_it_goes_on(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, VALUES, keep_best=2)
    interruption, entered = Interruption(), threading.Event()

    def blocked(params, step):
        if step == 6:
            interruption.requested = True
            entered.set()
            threading.Event().wait(30)
        value, protocol = VALUES[step], {"num": 1000}
        return [Measured("fd", "FD-fake", value, False, protocol, {"value": value, "stamp": protocol})]

    with pytest.raises(Interrupted, match="saved step 6"):
        train(stopped, VALUES, interruption=interruption, measure=blocked, keep_best=2)
    assert entered.is_set() and kept(stopped) == {4: 3.0, 2: 5.0}
    assert [line["step"] for line in lines(stopped, "measured.jsonl")] == [2, 4]
    train(stopped, VALUES, start=6, keep_best=2)
    assert kept(stopped) == kept(whole) and copies(stopped) == copies(whole)
    for name in ("metrics.jsonl", "measured.jsonl"):
        assert lines(stopped, name) == lines(whole, name)


def test_what_was_measured_is_not_measured_again(tmp_path):
    train(tmp_path, VALUES, end=4)

    def refused(params, step):
        raise AssertionError(step)

    train(tmp_path, VALUES, start=4, end=5, measure=refused)


class Killed(BaseException):
    """As by SIGKILL, between two operations on files."""


def killed_at(monkeypatch, number):
    """Has the operation of that number on files, among those of keeping, end the process."""
    count = [0]

    def ending(operation):
        def call(*args, **kwargs):
            if threading.current_thread() is threading.main_thread():
                count[0] += 1
                if count[0] == number:
                    raise Killed
            return operation(*args, **kwargs)

        return call

    keep = intervals.Measurements.keep

    def counted(*args):
        with monkeypatch.context() as patch:
            for name in ("link", "rename", "replace", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, ending(getattr(os, name)))
            return keep(*args)

    monkeypatch.setattr(intervals.Measurements, "keep", counted)


def test_killed_at_any_moment_nothing_is_lost_and_no_half_is_taken_for_whole(tmp_path, monkeypatch):
    """Step 4 takes the place of step 2: it is copied, best.json is written, the other is deleted."""
    begun, expected = tmp_path / "begun", tmp_path / "expected"
    train(begun, {2: 5.0}, end=3)
    with checkpoint.CheckpointWriter(str(begun), keep=1) as writer:
        writer.save(4, state_at(4))
    shutil.copytree(begun, expected)
    train(expected, VALUES, start=4, end=4)
    assert kept(expected) == {4: 3.0}
    for number in range(1, 200):
        run = tmp_path / str(number)
        shutil.copytree(begun, run)
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            try:
                train(run, VALUES, start=4, end=4)
                break
            except Killed:
                pass
        assert kept(run) in ({2: 5.0}, {4: 3.0})
        train(run, VALUES, start=4, end=4)
        assert kept(run) == {4: 3.0} and copies(run) == {"4"}
        for name in ("metrics.jsonl", "measured.jsonl"):
            assert lines(run, name) == lines(expected, name)
        shutil.rmtree(run)
    assert 10 < number < 199


def judge(**changes):
    return best.Judge(**{"name": "FD-fake", "higher_is_better": False, "protocol": {"num": 5}, **changes})


def saved(workdir, *steps):
    with checkpoint.CheckpointWriter(str(workdir)) as writer:
        for step in steps:
            writer.save(step, state_at(step))


def test_copies_share_the_disk_s_blocks_where_it_has_links(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)

    def inodes(step):
        pairs = [(tmp_path / folder / str(step)).rglob("*") for folder in ("checkpoints", "best")]
        return [{path.stat().st_ino for path in paths if path.is_file()} for paths in pairs]

    assert best.keep(str(tmp_path), 1, 1.0, judge(), num=2)
    assert len(set.intersection(*inodes(1))) == len(inodes(1)[0]) > 2

    def unlinked(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", unlinked)
    assert best.keep(str(tmp_path), 2, 2.0, judge(), num=2)
    assert not set.intersection(*inodes(2)) and kept(tmp_path) == {1: 1.0, 2: 2.0}


def test_a_step_that_is_measured_again_has_its_new_value_and_copy(tmp_path):
    saved(tmp_path, 3, 5)
    assert best.keep(str(tmp_path), 3, 1.0, judge(), num=1)
    checkpoint.discard_after(str(tmp_path), 2)
    saved(tmp_path, 3)
    with checkpoint.CheckpointWriter(str(tmp_path)) as writer:
        writer.save(5, state_at(5))
    assert best.keep(str(tmp_path), 3, 8.0, judge(), num=1) and kept(tmp_path) == {3: 8.0}
    newest = tmp_path / "checkpoints" / "3" / "checksums" / "metadata"
    assert newest.samefile(tmp_path / "best" / "3" / "checksums" / "metadata")
    assert best.keep(str(tmp_path), 5, 7.0, judge(), num=1) and copies(tmp_path) == {"5"}
    assert not best.keep(str(tmp_path), 5, float("nan"), judge(), num=1) and copies(tmp_path) == set()


def test_a_copy_that_is_replaced_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch, caplog):
    saved(tmp_path, 1, 2)
    best.keep(str(tmp_path), 1, 2.0, judge(), num=1)
    restore = checkpoint.restore

    def replaced(*args, **kwargs):
        monkeypatch.setattr(checkpoint, "restore", restore)
        best.keep(str(tmp_path), 2, 1.0, judge(), num=1)
        return restore(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "restore", replaced)
    assert best.restore_best(str(tmp_path), target())[0] == 2 and not caplog.records


def test_what_can_t_be_read_or_written_is_told_in_one_line(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    with pytest.raises(InputError, match="has no best checkpoint: train with evaluation.every"):
        best.restore_best(str(tmp_path), target())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="step 1 could not be kept in .*No space left"):
        patch.setattr(shutil, "copytree", full)
        best.keep(str(tmp_path), 1, 1.0, judge(), num=1)
    (tmp_path / "best").mkdir(exist_ok=True)
    (tmp_path / "best" / "best.json").write_text("{")
    with pytest.raises(InputError, match="best.json is damaged .*: move .*best away"):
        train(tmp_path, VALUES)


def test_lines_of_later_steps_are_dropped_when_a_run_goes_on(tmp_path):
    train(tmp_path, VALUES)
    train(tmp_path, VALUES, start=5, end=5)
    assert [line["step"] for line in lines(tmp_path, "measured.jsonl")] == [2, 4]
