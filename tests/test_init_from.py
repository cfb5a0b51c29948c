"""A run that begins with another's parameters."""

import jax
import numpy as np
import pytest
from processes import assert_same_run, final_state

from marble import run
from marble.cli.train import configured
from marble.errors import InputError
from marble.init_from import merged
from marble.loading import split_step

TINY = ["--config.model.channel_mult=(1,)", "--config.training.sample_every=0", "--config.training.eval_every=0"]


def trained(folder, *words, config="digits:smoke"):
    run.run(configured(config, [*TINY, *(f"--config.{word}" for word in words)]), str(folder))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("source"), "training.num_steps=4", "training.checkpoint_every=2")


def test_parameters_are_the_other_run_s_average(source, tmp_path, monkeypatch):
    began = []
    monkeypatch.setattr(run, "train", lambda **found: began.append(found["state"]))
    _, of_source = final_state(source)
    for words in (
        [f"init_from={source}"],
        [f"init_from={source}:4"],
        [f"init_from={source}", "training.post_hoc_ema=True"],
    ):
        trained(tmp_path / str(len(began)), *words)
        state = began[-1]
        for tree in (state.params, state.ema_params, *(state.power_averages or ())):
            jax.tree.map(np.testing.assert_array_equal, tree, of_source.ema_params)
        assert int(state.step) == 0
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    trained(tmp_path / "earlier", f"init_from={source}:2")
    assert not np.array_equal(*(jax.tree.leaves(state.params)[0] for state in began[-2:]))


@pytest.mark.slow
def test_a_run_that_goes_on_reads_it_no_more(source, tmp_path):
    whole = trained(tmp_path / "whole", f"init_from={source}", "training.num_steps=4", "training.log_every=1")
    part = trained(tmp_path / "part", f"init_from={source}", "training.num_steps=2", "training.log_every=1")
    trained(part, "init_from=nowhere", "training.num_steps=4", "training.log_every=1")
    assert_same_run(whole, part)


@pytest.mark.slow
def test_more_classes_keep_what_is_new(tmp_path, caplog):
    classes = lambda n: [f"model.num_classes={n}", "training.label_dropout=0.5"]  # noqa: E731
    source = trained(tmp_path / "source", "training.num_steps=1", "training.checkpoint_every=1")
    message = r"init_from=.* has the parameters of another model: label/rows/embedding \[11, 32\] is not there"
    with pytest.raises(InputError, match=message + ".*set init_from_partial=True"):
        trained(tmp_path / "refused", f"init_from={source}", *classes(10))
    assert not (tmp_path / "refused" / "checkpoints" / "1").exists()
    trained(tmp_path / "run", f"init_from={source}", "init_from_partial=True", "training.num_steps=1", *classes(10))
    assert "arrays are taken from" in caplog.text and "label/rows/embedding" in caplog.text


INITIAL = {"a": {"w": np.zeros((2, 3), np.float32)}, "head": np.zeros(4, np.float32)}


def test_what_fits_is_taken_and_what_differs_is_named():
    source = {"a": {"w": np.ones((2, 3))}, "head": np.ones(5), "old": np.ones(1)}
    with pytest.raises(
        InputError, match=r"head is \[5\] there and \[4\] here; old is not in this model; set init_from"
    ):
        merged(INITIAL, source, partial=False, name="run")
    found = merged(INITIAL, source, partial=True, name="run")
    np.testing.assert_array_equal(found["a"]["w"], 1)
    np.testing.assert_array_equal(found["head"], 0)
    assert found["a"]["w"].dtype == np.float32
    with pytest.raises(InputError, match=r"a/w \[2, 3\] is not there; did you mean 'a/v'; "):
        merged(INITIAL, {"a": {"v": np.ones((2, 3))}}, partial=False, name="run")
    with pytest.raises(InputError, match="no parameter that fits this model"):
        merged(INITIAL, {"b": np.ones(1)}, partial=True, name="run")


def test_where_it_is():
    assert split_step("runs/a") == ("runs/a", None) and split_step("runs/a:50") == ("runs/a", 50)
    assert split_step("gs://bucket/run:7") == ("gs://bucket/run", 7) and split_step("gs://bucket/run") == (
        "gs://bucket/run",
        None,
    )
    assert split_step("~/run")[0].startswith("/") and split_step("runs/a:b") == ("runs/a:b", None)


@pytest.mark.parametrize(
    ("word", "message"), [("nowhere", "nowhere is not the workdir of a run"), (":3", "no checkpoint of step 3")]
)
def test_what_is_not_there_is_named(word, message, source, tmp_path):
    word = f"{source}{word}" if word.startswith(":") else word
    with pytest.raises(InputError, match=message):
        trained(tmp_path / "run", f"init_from={word}")
