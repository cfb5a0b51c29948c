"""marble evaluate, end to end on the workdir of a smoke run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from features.toy_network import linear_network

import marble
from marble import builders, evaluation, loading, run, vae
from marble.cli.main import main
from marble.conditioning import Identity
from marble.config import load_config
from marble.diffusion import from_curve
from marble.errors import InputError
from marble.evaluation import evaluator
from marble.evaluation.bits import rows_of
from marble.evaluation.kept import keep
from marble.evaluation.samples import SampleOptions
from marble.models import VAE
from marble.pipelines import (
    DiffusionPipeline,
    Estimate,
    ImageSpec,
    SamplingConfig,
    VAEPipeline,
    VAESamplingConfig,
    evaluate,
)
from marble.sampling import Ancestral

IMAGE = ImageSpec((8, 8, 1), 17)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir of digits:smoke."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    run.run(builders.complete(load_config("digits:smoke")), str(workdir))
    return workdir


def test_the_bound_is_printed_and_kept(trained, capsys):
    words = ["evaluate", "--workdir", str(trained), "--metrics", "bpd", "--num", "3", "--batch_size", "8"]
    (trained / "metrics.json").write_text('{"bpd": {"test": "of all images"}}')
    assert main([*words, "--ode_steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--split", "train", "--noode", "--variance_type", "fixed_small", "--decoder", "tanh"]) == 0
    kept = json.loads((trained / "metrics.json").read_text())["bpd"]
    # A part of a split leaves what is there of the whole.
    assert set(kept) == {"test", "test[3]", "train[3]"} and kept["test"] == "of all images"
    test = kept["test[3]"]
    for name, line in (("L_T", "L_T"), ("L_0", "L_0"), ("bound", "sum"), ("probability_flow", "probability flow, var")):
        (found,) = [row for row in printed.splitlines() if row.startswith(line)]
        assert f"{test[name]['mean']:.5f}" in found and f"{test[name]['standard_error']:.5f}" in found
    assert len(test["by_step"]["mean"]) == len(test["rate_distortion"]["rate"]) == 10
    np.testing.assert_allclose(test["L_T"]["mean"] + sum(test["by_step"]["mean"]), test["bound"]["mean"], rtol=1e-9)
    assert (test["step"], test["params"], test["num"], test["levels"]) == (2, "ema_params", 3, 17)
    assert test["flow"] == {"num_steps": 2, "divergence": "hutchinson", "dequantisation": "variational"}
    train = kept["train[3]"]
    assert (train["variance_type"], train["decoder"], train["flow"]) == ("fixed_small", "tanh", None)
    assert train["probability_flow"] is None and "probability flow" not in capsys.readouterr().out


def test_samples_are_those_of_marble_sample_and_judged_by_the_run_s_data(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluator, "open_features", lambda spec, **_: linear_network())
    (trained / "metrics.json").unlink(missing_ok=True)
    words = ["--workdir", str(trained), "--num", "6", "--seed", "3", "--steps", "2"]
    assert main(["evaluate", *words, "--metrics", "fd,bpd", "--noode", "--reference_num", "50"]) == 0
    assert "FD-linear" in (printed := capsys.readouterr().out) and "the variational bound" in printed
    kept = json.loads((trained / "metrics.json").read_text())
    assert set(kept) == {"bpd", "fd"} and "test[6]" in kept["bpd"]
    stamp = kept["fd"]["FD-linear, digits:train, 6"]["stamp"]
    of_run = {"steps": 2, "seed": 3, "params": "ema_params", "checkpoint": 2}
    assert stamp["images"]["sampler"].startswith("Ancestral(")
    assert of_run.items() <= stamp["images"].items()
    assert stamp["reference"]["source"] == "digits:train" and stamp["reference"]["num"] == 50
    drawn = marble.load(str(trained)).sample(6, seed=3, steps=2)
    np.savez(tmp_path / "drawn.npz", drawn)
    options = dict(options=evaluation.EvaluationOptions(intervals=False), reference="digits", reference_num=50)
    found = marble.evaluate(images=str(tmp_path / "drawn.npz"), **options)
    assert found.numbers[0].stamp.images["hash"] == stamp["images"]["hash"]
    np.testing.assert_allclose(found.numbers[0].value, kept["fd"]["FD-linear, digits:train, 6"]["value"], rtol=1e-6)


def test_samples_are_judged_unrounded_where_the_network_takes_floats(trained, monkeypatch):
    monkeypatch.setattr(evaluator, "open_features", lambda spec, **_: linear_network(rounding="float"))
    seen = []
    whole = evaluator.collect

    def watched(images, *arguments, **options):
        seen.append(next(images.batches(2)).dtype)
        return whole(images, *arguments, **options)

    monkeypatch.setattr(evaluator, "collect", watched)
    marble.evaluate(str(trained), num=4, reference_num=20, sampling=SampleOptions(steps=2))
    assert seen == [np.float32, np.uint8]


def autoencoder():
    model = VAE(image_shape=IMAGE.shape, latent_size=2, channels=2, channel_mult=(1, 2), num_groups=2)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *IMAGE.shape)))["params"]
    likelihood, config = vae.DISCRETISED_LOGISTIC, VAESamplingConfig(batch_size=8)
    return VAEPipeline(model=model, params=params, likelihood=likelihood, image=IMAGE, config=config)


class Black:
    """Takes every image for black, in the place of a network."""

    def apply(self, variables, x_t, t, context=None):
        return jnp.full_like(x_t, -1)


def continuous():
    """Of a curve of log-SNR."""
    return DiffusionPipeline(
        model=Black(),
        params={},
        schedule=from_curve(lambda t: 6.0 - 16.0 * t),
        codec=Identity(IMAGE),
        sampler=Ancestral(),
        config=SamplingConfig(batch_size=8),
        prediction_type="x_0",
    )


@pytest.fixture
def loads(monkeypatch):
    """Takes the pipeline that the workdir is to hold."""

    def put(pipe):
        monkeypatch.setattr(loading, "load_step", lambda *_, **__: (2, pipe))

    return put


def test_an_autoencoder_s_parts_come_before_their_sum(trained, loads, capsys):
    loads(autoencoder())
    assert main(["evaluate", "--workdir", str(trained), "--split", "train", "--num", "2"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["reconstruction", "kl", "elbo", "importance_weighted"]
    kept = json.loads((trained / "metrics.json").read_text())["bpd"]["train[2]"]
    assert set(rows) < set(kept) and "decoder" not in kept


def test_continuous_time_is_told_in_thousandths_and_without_a_decoder(trained, loads, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "CONTINUOUS_POINTS", 20)
    loads(continuous())
    assert main(["evaluate", "--workdir", str(trained), "--split", "train", "--num", "4", "--noode"]) == 0
    printed = capsys.readouterr().out
    assert "L, t in thousandths 19..20 " in printed and "continuous time" in printed
    kept = json.loads((trained / "metrics.json").read_text())["bpd"]["train[4]"]
    assert kept["decoder"] is None and kept["variance_type"] is None


@pytest.mark.parametrize(
    ("pipe", "words", "message"),
    [
        (autoencoder, ["--decoder", "exact"], "--decoder is for diffusion models"),
        (autoencoder, ["--noode"], "--ode is for diffusion models"),
        (autoencoder, ["--ode_steps", "100"], "--ode_steps is for diffusion models"),
        (autoencoder, ["--ode_divergence", "exact"], "--ode_divergence is for diffusion models"),
        (autoencoder, ["--ode_dequantisation", "variational"], "--ode_dequantisation is for diffusion models"),
        (autoencoder, ["--variance_type", "fixed_large"], "--variance_type is for diffusion models"),
        (autoencoder, ["--batch_size", "8"], "--batch_size is for diffusion models"),
        (continuous, ["--decoder", "exact"], "--decoder is for schedules in steps"),
        (continuous, ["--variance_type", "fixed_large"], "--variance_type is for schedules in steps"),
        (continuous, ["--noode", "--ode_steps", "50"], "--ode_steps is for the probability flow, which --noode"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(pipe, words, message, trained, loads, capsys):
    loads(pipe())
    assert main(["evaluate", "--workdir", str(trained), *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert message in line and "leave it out" in line


def test_what_rounds_to_0_has_no_sign():
    assert rows_of({"kl": Estimate(-1e-9, 0.0)})[0].split() == ["kl", "0.00000", "0.00000"]


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
        (["--metrics", "psnr", "--num", "0"], "0 samples asked for: give at least 1"),
        (["--metrics", "psnr", "--num", "4", "--label", "3"], "--label is for other models"),
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
    path = tmp_path / "metrics.json"
    keep(path, "bpd", "test", {"x": [1.0, float("nan")]})
    keep(path, "bpd", "train", {"x": 2})
    keep(path, "other", "test", {"x": 3})
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert kept == {"bpd": {"test": {"x": [1.0, None]}, "train": {"x": 2}}, "other": {"test": {"x": 3}}}
    for damaged in ("{", "[1]", '{"bpd": 1}'):
        (tmp_path / "metrics.json").write_text(damaged)
        with pytest.raises(InputError, match=f"{path} is damaged"):
            keep(path, "bpd", "test", {})
