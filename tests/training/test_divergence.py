"""A run that diverges names a checkpoint that is good, and goes on from it with another learning rate."""

import json
import math

import jax.numpy as jnp
import pytest
from processes import final_state

from marble import checkpoint, run
from marble.cli.main import main
from marble.cli.train import configured
from marble.errors import RunError
from marble.training.divergence import SET_ASIDE, Divergence

WORDS = [
    *("--config.model.channel_mult=(1,)", "--config.training.num_steps=6", "--config.training.checkpoint_every=2"),
    *("--config.training.eval_every=2", "--config.training.log_every=2", "--config.training.sample_every=0"),
]


def test_a_diverged_state_names_its_step_and_that_nothing_is_saved(tmp_path):
    class State:
        diverged, step = jnp.ones((), bool), jnp.int32(41)

    with checkpoint.CheckpointWriter(str(tmp_path)) as writer:
        divergence = Divergence(str(tmp_path), writer)
        with pytest.raises(
            RunError, match="not finite at step 42; there is no checkpoint from before it: the same command"
        ):
            divergence.checked(State())
        writer.save(40, {"x": jnp.zeros(2)})
        with pytest.raises(RunError, match="step 42; the newest checkpoint from before it is of step 40: the same c"):
            divergence.checked(State())


def losses_of(monkeypatch, losses):
    """The held-out losses that the run is to see, in place of its own."""
    losses = iter(losses)
    monkeypatch.setattr(run, "held_out_loss", lambda *_: lambda params: next(losses))


def test_a_held_out_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch, capsys):
    words = ["train", "--config", "digits:smoke", *WORDS, "--workdir", str(tmp_path)]
    losses_of(monkeypatch, [1.0, math.nan, 0.9, 0.8])
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "the held-out loss is nan at step 4; the newest checkpoint from before it is of step 2" in said
    assert f"those after it are in {SET_ASIDE}" in said and "Lower optimizer.learning_rate" in said
    assert checkpoint.saved_steps(str(tmp_path)) == [2]
    assert main([*words, "--config.optimizer.learning_rate=1e-5", "--config.optimizer.clip_norm=0.5"]) == 0
    said = capsys.readouterr().err
    assert "changed since this run began: optimizer.learning_rate: 0.002 -> 1e-05" in said
    assert "optimizer.clip_norm: 1.0 -> 0.5" in said and "going on from the checkpoint of step 2" in said
    assert final_state(tmp_path)[0] == 6
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["heldout_loss"] for line in lines if "heldout_loss" in line] == [1.0, 0.9, 0.8]


def test_with_no_checkpoint_from_before_it_says_so(tmp_path, monkeypatch, capsys):
    losses_of(monkeypatch, [math.inf])
    assert main(["train", "--config", "digits:smoke", *WORDS, "--workdir", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "the held-out loss is inf at step 2; there is no checkpoint from before it" in said
    assert "the same command begins anew" in said and checkpoint.saved_steps(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("warmup_steps=1", "warmup_steps=3", marks=pytest.mark.slow),
        pytest.param(None, "decay_steps=50", marks=pytest.mark.slow),
        pytest.param("decay_steps=40", "decay_steps=50", marks=pytest.mark.slow),
    ],
)
def test_other_numbers_of_the_optimiser_keep_its_state(before, after, tmp_path):
    words = [*WORDS, "--config.training.eval_every=0", "--config.optimizer.warmup_steps=1"]
    for numbers, num_steps in ((before, 2), (after, 6)):
        config = configured("digits:smoke", [*words, f"--config.training.num_steps={num_steps}"])
        config.optimizer.decay_steps = None
        if numbers is not None:
            name, value = numbers.split("=")
            config.optimizer[name] = int(value)
        state = run.run(config, str(tmp_path))
    assert int(state.step) == 6 and not state.diverged
