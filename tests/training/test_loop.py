"""The parts of the loop that decide when and what."""

import jax
import pytest

from marble.errors import InputError, RunError
from marble.parallel import explained_memory_error
from marble.training.config import EvaluationConfig, TrainingConfig
from marble.training.intervals import due
from marble.training.loop import call_lengths


def config(**changes):
    return TrainingConfig(
        **{"batch_size": 8, "num_steps": 10, "ema_decay": 0.9, "checkpoint_every": 0, "log_every": 0, **changes}
    )


def test_calls_end_at_absolute_multiples():
    assert list(call_lengths(0, config(steps_per_call=4))) == [4, 4, 2]
    assert list(call_lengths(6, config(steps_per_call=4))) == [2, 2]
    assert list(call_lengths(8, config(steps_per_call=4))) == [2]
    assert list(call_lengths(10, config(steps_per_call=4))) == []
    assert list(call_lengths(0, config())) == [1] * 10


def test_due_at_multiples_and_never_for_zero():
    assert [step for step in range(1, 10) if due(step, 3)] == [3, 6, 9]
    assert not any(due(step, 0) for step in range(1, 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "training.batch_size=0"),
        ({"num_steps": -1}, "training.num_steps=-1"),
        ({"log_every": 6, "steps_per_call": 4}, "training.log_every=6 must be a multiple of steps_per_call=4"),
        ({"ema_decay": 1.5}, "training.ema_decay=1.5"),
        ({"ema_snapshot_every": 0}, "training.ema_snapshot_every=0 must be at least 1"),
        (
            {"ema_snapshot_every": 6, "post_hoc_ema": True, "steps_per_call": 4},
            "ema_snapshot_every=6 must be a mult",
        ),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": -1}, "evaluation.every=-1 must be at least 0"),
        ({"num": 1}, "evaluation.num=1 must be at least 2"),
        ({"reference_num": 1}, "evaluation.reference_num=1 must be at least 2"),
        ({"keep_best": 0}, "evaluation.keep_best=0 must be at least 1"),
        ({"metrics": ()}, "evaluation.metrics is empty"),
        ({"metrics": ("kid", "pr")}, "evaluation.best='fd' is not measured: set it to 'kid' or 'pr', or to None"),
    ],
)
def test_impossible_measurements_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        EvaluationConfig(**{"every": 10, **changes})
    EvaluationConfig(every=10, metrics=("kid",), best=None)


def test_memory_errors_say_what_to_lower():
    with pytest.raises(RunError, match="training.accumulate"), explained_memory_error():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explained_memory_error():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
