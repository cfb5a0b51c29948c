"""Checkpoints: exact, verified, and never lost to a damaged file."""

import itertools
import json
import logging
import shutil
import time
from threading import Event, Thread, Timer

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from marble import checkpoint
from marble.errors import InputError, RestartError, RunError
from marble.training.state import TrainState


def state_at(step, seed=0):
    params = {"a": {"kernel": jax.random.normal(jax.random.key(seed), (30, 20)), "bias": jnp.arange(4.0)}}
    return TrainState.create(params, optax.adam(1e-3)).replace(step=jnp.int32(step))


TARGET = jax.eval_shape(lambda: state_at(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with the checkpoints of steps 2, 3 and 4: the oldest of four was dropped."""
    workdir = tmp_path_factory.mktemp("saved")
    with checkpoint.CheckpointWriter(str(workdir), keep=3) as writer:
        for step in (1, 2, 3, 4):
            writer.save(step, state_at(step))
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "workdir")


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert jax.tree.map(lambda x: x.dtype, one) == jax.tree.map(lambda x: x.dtype, other)


def test_the_newest_comes_back_exactly(workdir):
    assert checkpoint.saved_steps(str(workdir)) == [4, 3, 2]
    step, state, damaged = checkpoint.restore_newest(str(workdir), TARGET)
    assert step == 4 and damaged == []
    assert_equal(state, jax.device_get(state_at(4)))


def test_a_state_of_before_a_field_that_is_empty_comes_back(workdir):
    """As ``power_averages`` came later than some runs; a field that is not empty is another model's."""
    named = workdir / "checkpoints" / "4" / "state" / "_METADATA"
    content = json.loads(named.read_text())
    (key,) = (key for key in content["tree_metadata"] if "power_averages" in key)
    del content["tree_metadata"][key]
    named.write_text(json.dumps(content))
    step, state, _ = checkpoint.restore_newest(str(workdir), TARGET)
    assert step == 4
    assert_equal(state, jax.device_get(state_at(4)))
    with pytest.raises(InputError, match="power_averages/0/a/bias is absent there"):
        checkpoint.restore_newest(str(workdir), TARGET.replace(power_averages=(TARGET.params,)))
    with pytest.raises(InputError, match="params/a/bias is float32.4. there, but absent in this config"):
        checkpoint.restore_newest(str(workdir), TARGET.replace(params={"a": {"kernel": TARGET.params["a"]["kernel"]}}))


def test_a_part_comes_back_alone(workdir):
    _, state, _ = checkpoint.restore_newest(str(workdir), {"ema_params": TARGET.ema_params})
    assert set(state) == {"ema_params"}
    assert_equal(state["ema_params"], jax.device_get(state_at(4).ema_params))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), RunError),
        (ValueError("RESOURCE_EXHAUSTED: a full disk"), RunError),
        (ValueError("UNAVAILABLE: a bucket that does not answer"), RestartError),
    ],
)
def test_a_save_that_fails_says_whether_to_start_again(tmp_path, monkeypatch, error, kind):
    def fails(*_, **__):
        raise error

    with checkpoint.CheckpointWriter(str(tmp_path)) as writer:
        monkeypatch.setattr(writer._manager, "save", fails)
        with pytest.raises(RunError, match="checkpoint of step 1 could not be saved.*run the same command") as caught:
            writer.save(1, state_at(1))
    assert caught.type is kind


def flipped(content):
    position = len(content) // 2
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


DAMAGES = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "flipped": flipped,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whichever_file_is_damaged_what_comes_back_is_what_was_saved(workdir, damage, caplog):
    passed_over = set()
    files = [p for p in (workdir / "checkpoints" / "4").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size if path.parent.name == "d" else 0)
    for path in sorted(files):
        content = path.read_bytes()
        if not content:
            continue
        path.write_bytes(DAMAGES[damage](content))
        with caplog.at_level(logging.ERROR, logger="marble"):
            caplog.clear()
            step, state, damaged = checkpoint.restore_newest(str(workdir), TARGET)
        path.write_bytes(content)
        assert_equal(state, jax.device_get(state_at(step)))
        assert step == (3 if damaged else 4)
        if damaged:
            passed_over.add(path)
            (record,) = caplog.records  # one line, which names the checkpoint
            assert "checkpoints/4" in record.getMessage() and "\n" not in record.getMessage()
    state, checksums = (workdir / "checkpoints" / "4" / item for item in ("state", "checksums"))
    assert passed_over >= {checksums / "metadata", state / "manifest.ocdbt", largest}
    # A bit of this file can fall into a word that nobody reads.
    assert damage == "flipped" or state / "_METADATA" in passed_over


def test_every_byte_of_the_arrays_is_covered(workdir):
    """Any flipped bit of a data file that changes an array is noticed."""
    rng = np.random.default_rng(0)
    files = [p for p in (workdir / "checkpoints" / "4" / "state").rglob("*") if p.is_file() and p.stat().st_size > 1000]
    for path in files:
        content = path.read_bytes()
        for position in rng.integers(0, len(content), 12):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            step, state, _ = checkpoint.restore_newest(str(workdir), TARGET)
            assert_equal(state, jax.device_get(state_at(step)))
        path.write_bytes(content)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), ValueError("PERMISSION_DENIED: Error opening"), OSError(5, "i/o")]
)
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(workdir, monkeypatch, error):
    def restore(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", restore)
    with pytest.raises(RunError, match="can't be read now .*(denied|DENIED|i/o)") as raised:
        checkpoint.restore_newest(str(workdir), TARGET)
    assert not isinstance(raised.value, checkpoint.DamagedCheckpointError)


def test_a_lack_of_memory_is_no_damage(workdir, monkeypatch):
    def restore(*_, **__):
        raise MemoryError

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", restore)
    with pytest.raises(MemoryError):
        checkpoint.restore_newest(str(workdir), TARGET)


def test_damage_outside_of_what_is_read_does_not_matter(workdir):
    """A changed leaf of the optimiser's state does not stop sampling, which reads the average alone."""
    other = state_at(4, seed=1)
    with checkpoint.CheckpointWriter(str(workdir)) as writer:
        writer.save(5, state_at(5).replace(opt_state=other.opt_state))
    described = workdir / "checkpoints" / "5" / "checksums" / "metadata"
    shutil.copy(workdir / "checkpoints" / "4" / "checksums" / "metadata", described)  # step differs: full read fails
    assert checkpoint.restore_newest(str(workdir), TARGET)[0] == 4
    assert checkpoint.restore_newest(str(workdir), {"ema_params": TARGET.ema_params})[0] == 5


def test_without_checksums_a_checkpoint_is_unverified_but_used(workdir, caplog):
    shutil.rmtree(workdir / "checkpoints" / "4" / "checksums")
    with caplog.at_level(logging.WARNING, logger="marble"):
        assert checkpoint.restore_newest(str(workdir), TARGET)[0] == 4
    assert "can't be verified" in caplog.text


def test_another_model_s_checkpoint_is_refused_with_the_leaf(workdir):
    params = {"a": {"kernel": jnp.zeros((30, 21)), "bias": jnp.zeros(4)}}
    target = jax.eval_shape(lambda: TrainState.create(params, optax.adam(1e-3)))
    with pytest.raises(
        InputError, match=r"another model: .*a/kernel is float32\[30, 20\] there, but float32\[30, 21\]"
    ):
        checkpoint.restore_newest(str(workdir), target)
    assert checkpoint.saved_steps(str(workdir)) == [4, 3, 2]


def test_a_stray_file_is_no_checkpoint(workdir):
    (workdir / "checkpoints" / "9").write_text("")
    assert checkpoint.saved_steps(str(workdir)) == [4, 3, 2]
    assert checkpoint.restore_newest(str(workdir), TARGET)[0] == 4


def test_a_missing_step_lists_those_there_are(workdir):
    with pytest.raises(InputError, match="no checkpoint of step 7 .* 4, 3, 2"):
        checkpoint.restore(str(workdir), 7, TARGET)
    with pytest.raises(InputError, match="no checkpoint in"):
        checkpoint.restore_newest(str(workdir / "elsewhere"), TARGET)


def test_when_all_are_damaged_nothing_is_invented(workdir):
    for step in (2, 3, 4):
        (workdir / "checkpoints" / str(step) / "checksums" / "metadata").write_text("")
    with pytest.raises(RunError, match=r"none of the checkpoints .* is whole: \[4, 3, 2\]"):
        checkpoint.restore_newest(str(workdir), TARGET)
    assert checkpoint.saved_steps(str(workdir)) == [4, 3, 2]


@pytest.mark.parametrize("silent", [True, False])
def test_a_failed_restore_leaves_the_program_s_loggers_as_they_were(workdir, silent, monkeypatch):
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", silent)
    for path in (workdir / "checkpoints" / "4" / "state").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    assert checkpoint.restore_newest(str(workdir), TARGET)[0] == 3
    assert logging.getLogger("asyncio").disabled is silent


def test_damaged_ones_are_set_aside_and_their_steps_saved_again(workdir):
    for _ in range(2):
        checkpoint.set_aside(str(workdir), [4])
        assert checkpoint.saved_steps(str(workdir)) == [3, 2]
        with checkpoint.CheckpointWriter(str(workdir)) as writer:
            writer.save(4, state_at(4, seed=9))
    assert sorted(p.name for p in (workdir / "checkpoints-damaged").iterdir()) == ["4.0", "4.1"]
    assert_equal(checkpoint.restore_newest(str(workdir), TARGET)[1], jax.device_get(state_at(4, seed=9)))


def test_a_run_that_saves_and_deletes_can_be_read_at_any_moment(tmp_path, caplog):
    """Steps go while they are read: they are neither damaged nor missed, for there is always a newer one."""
    filled = lambda step: {"ema_params": {str(i): np.full((64, 64), step, np.float32) for i in range(8)}}  # noqa: E731
    first, ended = Event(), Event()

    def save():
        with checkpoint.CheckpointWriter(str(tmp_path), keep=1) as writer:
            for step in itertools.count(1):
                writer.save(step, filled(step))
                writer.wait()
                first.set()
                if ended.is_set():
                    return

    run = Thread(target=save)
    run.start()
    try:
        first.wait()
        with caplog.at_level(logging.WARNING, logger="marble"):
            loads = [checkpoint.restore_newest(str(tmp_path), filled(0)) for _ in range(60)]
    finally:
        ended.set()
        run.join()
    for step, state, damaged in loads:
        assert damaged == []
        assert_equal(state, filled(step))
    assert loads[-1][0] > loads[0][0] and not caplog.records


@pytest.fixture
def while_read(monkeypatch):
    """Has something done before each reading of a state."""

    def before(action):
        def restore(self, *arguments, **keywords):
            action()
            return original(self, *arguments, **keywords)

        original = checkpoint.ocp.Checkpointer.restore
        monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", restore)

    return before


def replace_newest(workdir, *, left=()):
    """What a run does that saves a step and deletes the one before it, all of it or not yet all."""
    folder = workdir / "checkpoints"
    newest = checkpoint.saved_steps(str(workdir))[0]
    shutil.copytree(folder / str(newest), folder / str(newest + 1))
    for path in (folder / str(newest)).iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not left:
        (folder / str(newest)).rmdir()


@pytest.mark.parametrize("left", [(), ("checksums",), ("checksums", "_CHECKPOINT_METADATA")])
def test_a_step_that_is_deleted_while_it_is_read_is_not_called_damaged(workdir, while_read, caplog, left):
    once = iter([lambda: replace_newest(workdir, left=left)])
    while_read(lambda: next(once, lambda: None)())
    with caplog.at_level(logging.WARNING, logger="marble"):
        step, state, damaged = checkpoint.restore_newest(str(workdir), TARGET)
    assert step == 5 and damaged == [] and not caplog.records
    assert_equal(state, jax.device_get(state_at(4)))


def test_where_every_step_is_deleted_while_it_is_read_that_is_said(workdir, while_read):
    while_read(lambda: replace_newest(workdir))
    with pytest.raises(RunError, match=r"checkpoints \[4, 5, .* were deleted while they were read: wait .*keep_check"):
        checkpoint.restore_newest(str(workdir), TARGET)


def test_the_step_that_was_asked_for_may_be_deleted_too(workdir, while_read):
    while_read(lambda: replace_newest(workdir, left=("checksums",)))
    timer = Timer(0.3, lambda: shutil.rmtree(workdir / "checkpoints" / "4"))
    timer.start()
    with pytest.raises(InputError, match="step 4 .*was deleted while it was read; there are: 5, 3, 2"):
        checkpoint.restore(str(workdir), 4, TARGET)
    timer.join()


def test_a_deletion_that_was_cut_off_leaves_damage(workdir, caplog):
    replace_newest(workdir, left=("checksums",))
    shutil.rmtree(workdir / "checkpoints" / "5")
    with pytest.raises(checkpoint.DamagedCheckpointError, match="checkpoints/4 is damaged"):
        checkpoint.restore(str(workdir), 4, TARGET)
    assert checkpoint.restore_newest(str(workdir), TARGET)[::2] == (3, [4])


def test_reading_writes_nothing(tmp_path):
    assert checkpoint.saved_steps(str(tmp_path / "new")) == []
    assert not (tmp_path / "new").exists()


def test_old_ones_stay_by_their_age(tmp_path):
    """The newest two, and of the others one a second."""
    with checkpoint.CheckpointWriter(str(tmp_path), keep=2, keep_every_hours=1 / 3600) as writer:
        for step, pause in enumerate((0.1, 1.2, 0.1, 0.1, 0.1), 1):
            writer.save(step, {"x": np.full(3, step)})
            writer.wait()
            time.sleep(pause)
    assert checkpoint.saved_steps(str(tmp_path)) == [5, 4, 3, 1]
