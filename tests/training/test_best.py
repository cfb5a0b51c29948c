"""The best checkpoints of a run, kept beside the newest, whatever happens to them."""

import json
from pathlib import Path

import numpy as np
import pytest

from marble import checkpoint
from marble.errors import InputError, RunError
from marble.training import best
from marble.training.best import Judge

LOWER = Judge("FD", False, {"reference.num": 40})
HIGHER = Judge("IS", True, {})


@pytest.fixture
def workdir(tmp_path):
    """With checkpoints of the steps 1 to 4, whose parameter is the step."""
    with checkpoint.CheckpointWriter(str(tmp_path)) as writer:
        for step in range(1, 5):
            writer.save(step, {"w": np.full(3, step, np.float32)})
    return str(tmp_path)


def kept(workdir):
    return checkpoint.saved_steps(workdir, best.FOLDER)


def restored(workdir):
    step, state = best.restore_best(workdir, {"w": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(state["w"], step)
    return step


@pytest.mark.parametrize(
    ("judge", "num", "values", "steps"),
    [
        (LOWER, 1, [5.0, 3.0, 4.0, 9.0], [2]),
        (HIGHER, 1, [5.0, 3.0, 4.0, 9.0], [4]),
        (LOWER, 2, [5.0, 3.0, 4.0, 9.0], [3, 2]),
        (LOWER, 1, [3.0, 3.0, np.nan, np.inf], [1]),
        (LOWER, 9, [4.0, 3.0, 2.0, 1.0], [4, 3, 2, 1]),
    ],
)
def test_as_many_stay_as_are_asked_for_by_the_metric_s_direction(workdir, judge, num, values, steps):
    for step, value in enumerate(values, 1):
        assert best.keep(workdir, step, value, judge, num=num) == (step in kept(workdir))
    assert kept(workdir) == steps
    ranked = best.recall(workdir).ranked
    assert sorted(ranked, reverse=True) == steps and restored(workdir) == ranked[0]


def test_the_newest_may_be_deleted_and_the_best_stays(workdir):
    best.keep(workdir, 2, 1.0, LOWER, num=1)
    for step in range(1, 5):
        (checkpoint.directory_of(workdir) / str(step)).rmtree()
    assert restored(workdir) == 2


def test_what_a_kill_left_half_done_is_passed_over_and_made_again(workdir):
    best.keep(workdir, 1, 5.0, LOWER, num=1)
    # Killed after the copy, before it is named; and while a worse one is deleted.
    checkpoint.copy_step(workdir, 3, best.folder_of(workdir))
    assert best.recall(workdir).ranked == [1] and restored(workdir) == 1
    assert best.keep(workdir, 3, 4.0, LOWER, num=1)
    assert kept(workdir) == [3] and restored(workdir) == 3
    assert best.keep(workdir, 3, 4.0, LOWER, num=1) and kept(workdir) == [3]  # done twice, it is as once


def test_a_damaged_copy_is_passed_over_aloud(workdir, caplog):
    for step in (1, 2):
        best.keep(workdir, step, float(step), LOWER, num=2)
    for path in Path(str(best.folder_of(workdir) / "1" / checkpoint.STATE)).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()  # a hard link: the run's own file stays as it is
            path.write_bytes(content[: len(content) // 2])
    assert restored(workdir) == 2 and "going on to the next best" in caplog.text
    checkpoint.restore(workdir, 1, {"w": np.zeros(3, np.float32)})
    (best.folder_of(workdir) / "2").rmtree()
    with pytest.raises(RunError, match=r"none of the checkpoints in .* is whole: \[1, 2\]"):
        restored(workdir)


def test_values_of_another_protocol_are_set_aside(workdir, caplog):
    best.keep(workdir, 1, 1.0, LOWER, num=1)
    assert best.keep(workdir, 2, 5.0, LOWER._replace(protocol={"reference.num": 50}), num=1)
    assert kept(workdir) == [2] and "what is measured has changed" in caplog.text
    assert checkpoint.saved_steps(workdir, "best-0") == [1]


def test_a_damaged_list_is_named(workdir):
    best.keep(workdir, 1, 1.0, LOWER, num=1)
    path = best.folder_of(workdir) / best.FILE
    for damaged in ("{", "[]", json.dumps({"name": "FD"})):
        path.write_text(damaged)
        with pytest.raises(InputError, match=f"{path} is damaged"):
            best.recall(workdir)
