"""marble evaluate, end to end on the workdir of a smoke run."""

import json

import numpy as np
import pytest

from marble import builders, run
from marble.cli.evaluate import keep
from marble.cli.main import main
from marble.config import load_config
from marble.errors import InputError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir of digits:smoke."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    run.run(builders.complete(load_config("digits:smoke")), str(workdir))
    return workdir


def test_the_bound_is_printed_and_kept(trained, capsys):
    words = ["evaluate", "--workdir", str(trained), "--metrics", "bpd", "--num", "3", "--batch_size", "8"]
    assert main([*words, "--ode_steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--split", "train", "--noode", "--variance_type", "fixed_small", "--decoder", "tanh"]) == 0
    kept = json.loads((trained / "metrics.json").read_text())["bpd"]
    assert set(kept) == {"test", "train"}
    test = kept["test"]
    for name, line in (("L_T", "L_T"), ("L_0", "L_0"), ("bound", "sum"), ("probability_flow", "probability flow, var")):
        (found,) = [row for row in printed.splitlines() if row.startswith(line)]
        assert f"{test[name]['mean']:.5f}" in found and f"{test[name]['standard_error']:.5f}" in found
    assert len(test["by_step"]["mean"]) == len(test["rate_distortion"]["rate"]) == 10
    np.testing.assert_allclose(test["L_T"]["mean"] + sum(test["by_step"]["mean"]), test["bound"]["mean"], rtol=1e-9)
    assert (test["step"], test["params"], test["num"], test["levels"]) == (2, "ema_params", 3, 17)
    assert test["flow"] == {"num_steps": 2, "divergence": "hutchinson", "dequantisation": "variational"}
    train = kept["train"]
    assert (train["variance_type"], train["decoder"], train["flow"]) == ("fixed_small", "tanh", None)
    assert train["probability_flow"] is None and "probability flow" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "bpd,fidd"], "--metrics 'fidd' is unknown"),
        (["--metrics", ""], "--metrics '' is unknown"),
        (["--num", "0"], "num=0 must be between 1 and 360"),
        (["--num", "361"], "num=361 must be between 1 and 360"),
        (["--split", "validation"], "digits has no split 'validation': there are train, test"),
        (["--seed", "-1"], "seed=-1"),
        (["--batch_size", "0"], "batch_size=0"),
        (["--step", "1"], "no checkpoint of step 1"),
        (["--decoder", "logistic"], "decoder 'logistic' is not one of exact, tanh"),
        (["--variance_type", "wide", "--noode"], "variance_type 'wide' is not one of fixed_small"),
        (["--ode_steps", "0"], "0 steps of the probability flow"),
        (["--ode_divergence", "guess"], "divergence 'guess'"),
        (["--ode_dequantisation", "uniform"], "the 17 levels are 0.125 apart"),
        (["--bogus"], "bogus"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(words, message, trained, capsys):
    before = (trained / "metrics.json").read_text() if (trained / "metrics.json").exists() else None
    assert main(["evaluate", "--workdir", str(trained), *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert message in line
    assert before == ((trained / "metrics.json").read_text() if (trained / "metrics.json").exists() else None)


def test_a_folder_that_is_no_workdir_is_named(tmp_path, capsys):
    for words, message in (([], "--workdir is missing"), (["--workdir", str(tmp_path)], "is not the workdir of a run")):
        assert main(["evaluate", *words]) == 2
        assert message in capsys.readouterr().err


def test_what_is_kept_stays_beside_what_is_new(tmp_path):
    keep(str(tmp_path), "bpd", "test", {"x": [1.0, float("nan")]})
    keep(str(tmp_path), "bpd", "train", {"x": 2})
    path = keep(str(tmp_path), "other", "test", {"x": 3})
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert kept == {"bpd": {"test": {"x": [1.0, None]}, "train": {"x": 2}}, "other": {"test": {"x": 3}}}
    for damaged in ("{", "[1]", '{"bpd": 1}'):
        (tmp_path / "metrics.json").write_text(damaged)
        with pytest.raises(InputError, match=f"{path} is damaged"):
            keep(str(tmp_path), "bpd", "test", {})
