"""A run that measures its samples while it trains: numbers of steps, and the best checkpoint beside the newest."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from features.toy_network import linear_network

import marble
from marble import builders, checkpoint, run
from marble.cli.main import main
from marble.config import load_config
from marble.errors import InputError
from marble.evaluation import EvaluationOptions, Evaluator, evaluator, in_training, of_arrays, of_source
from marble.evaluation.samples import drawn_classes
from marble.parallel import ParallelConfig
from marble.pipelines import VAESamplingConfig
from marble.training import best
from marble.training.config import EvaluationConfig
from marble.typing import ImageSpec


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """The one network that there is."""
    monkeypatch.setattr(evaluator, "open_features", lambda spec, **_: linear_network())


def config_of(num_steps, **options):
    config = builders.complete(load_config("digits:smoke"))
    config.training.num_steps, config.training.checkpoint_every, config.training.keep_checkpoints = num_steps, 1, 1
    config.training.sample_every = config.training.eval_every = 0
    config.optimizer.learning_rate = 0.1  # so that the steps differ
    config.evaluation.update(dict(every=1, num=6, reference_num=40, metrics=("fd", "is")) | options)
    return config


def numbers_of(workdir):
    """(step, name): value, of measured.jsonl."""
    lines = map(json.loads, (workdir / "measured.jsonl").read_text().splitlines())
    return {(line["step"], line["name"]): line["value"] for line in lines}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of three steps that was stopped after two, and its numbers then."""
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluator, "open_features", lambda spec, **_: linear_network())
    workdir = tmp_path_factory.mktemp("measured") / "run"
    run.run(config_of(2), str(workdir))
    before = numbers_of(workdir)
    config = config_of(3)
    run.run(config, str(workdir))
    patch.undo()
    return workdir, before


def test_each_step_s_numbers_are_those_of_its_samples(measured):
    workdir, _ = measured
    found = numbers_of(workdir)
    assert set(found) == {(s, name) for s in (1, 2, 3) for name in ("FD-linear", "IS-linear", "IS-linear-infinity")}
    source = builders.data_config(builders.complete(load_config("digits:smoke"))).open()
    reference = of_source(source, "train").take(40)
    drawn = marble.load(str(workdir)).sample(6, seed=0)
    (number,) = Evaluator(EvaluationOptions(), reference).numbers(of_arrays(drawn))
    np.testing.assert_allclose(found[3, "FD-linear"], number.value, rtol=1e-6)
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["FD-linear"] for line in logged if "FD-linear" in line} == {
        step: value for (step, name), value in found.items() if name == "FD-linear"
    }


def test_a_run_that_goes_on_keeps_what_was_measured(measured):
    workdir, before = measured
    assert before.items() <= numbers_of(workdir).items()


def test_the_best_checkpoint_stays_beside_the_newest(measured, capsys, tmp_path):
    workdir, _ = measured
    values = {step: value for (step, name), value in numbers_of(workdir).items() if name == "FD-linear"}
    step = min(values, key=values.__getitem__)
    assert checkpoint.saved_steps(str(workdir)) == [3]
    assert checkpoint.saved_steps(str(workdir), best.FOLDER) == [step]
    assert best.recall(str(workdir)).values == {step: values[step]}
    pipe = marble.load(str(workdir), best=True)
    source = builders.data_config(builders.complete(load_config("digits:smoke"))).open()
    reference = of_source(source, "train").take(40)
    (number,) = Evaluator(EvaluationOptions(), reference).numbers(of_arrays(pipe.sample(6, seed=0)))
    np.testing.assert_allclose(number.value, values[step], rtol=1e-6)
    out = str(tmp_path / "out")
    assert main(["sample", "--workdir", str(workdir), "--best", "--num", "6", "--out", out]) == 0
    with np.load(f"{out}/samples.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], pipe.sample(6, seed=0))
    words = ["--metrics", "fd", "--num", "6", "--reference_num", "40", "--nointervals", "--out", f"{out}/metrics.json"]
    assert main(["evaluate", "--workdir", str(workdir), "--best", *words]) == 0
    (entry,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["fd"].values()
    np.testing.assert_allclose(entry["value"], values[step], rtol=1e-6)
    assert entry["stamp"]["images"]["checkpoint"] == step
    with pytest.raises(InputError, match="best and step=3 ask for two checkpoints"):
        marble.load(str(workdir), best=True, step=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(metrics=("fidd",), best=None), "metric 'fidd' is unknown; did you mean 'fd'"),
        (dict(best="kid"), "evaluation.best='kid' is not measured: set it to 'fd' or 'is'"),
        (dict(num=1), "evaluation.num=1 must be at least 2"),
        (dict(reference="nowhere"), "nowhere"),
        (dict(metrics=("clip",), best="clip"), "metric clip needs features of clip:PATH"),
    ],
)
def test_what_can_t_be_measured_is_told_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run.run(config_of(2, **options), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_calls_of_several_steps_end_where_it_is_measured(tmp_path):
    config = config_of(4, every=3)
    config.training.update(dict(steps_per_call=2, log_every=0, checkpoint_every=0))
    with pytest.raises(InputError, match="evaluation.every=3 must be a multiple of training.steps_per_call=2"):
        run.run(config, str(tmp_path / "run"))


class Drawn:
    """A pipeline of texts that keeps what it is asked for: image i is its parameters plus i."""

    image, config = ImageSpec((8, 8, 3), 256), VAESamplingConfig(batch_size=4)
    conditioner = SimpleNamespace(requests=("text",))

    def __init__(self):
        self.asked, self.calls = [], []

    def num_steps(self):
        return 1

    def sample(self, num, *, seed, first, params, text, **_):
        self.asked += text
        self.calls.append((first, num))
        return np.stack([np.full((8, 8, 3), params + first + i, np.uint8) for i in range(num)])


def test_a_model_of_texts_draws_those_that_its_config_shows():
    shown = ["a fox", "a hare", "an owl"]
    experiment = SimpleNamespace(
        seed=0,
        evaluation=EvaluationConfig(every=1, num=6, reference="reference"),
        objective=SimpleNamespace(examples=lambda num: {"text": [shown[i % 3] for i in range(num)]}),
    )
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_training, "reference_of", lambda *_, **__: of_arrays(images))
        pipe = Drawn()
        measure = in_training.measuring(experiment, None, pipe, ParallelConfig().open(), name="a run")
    assert pipe.asked == []
    (number,) = measure(7, 3)
    assert pipe.calls == [(0, 4), (4, 2)]  # its own batches: a program of 4 that is asked for 64 fills up none
    assert pipe.asked == 2 * shown and number.entry["stamp"]["images"]["checkpoint"] == 3
    drawn = np.stack([np.full((8, 8, 3), 7 + i, np.uint8) for i in range(6)])
    (wanted,) = Evaluator(EvaluationOptions(), of_arrays(images)).numbers(of_arrays(drawn))
    np.testing.assert_allclose(number.value, wanted.value, rtol=1e-6)
    assert number.protocol["images.text"] and "images.checkpoint" not in number.protocol


def test_a_run_without_measuring_has_no_best(tmp_path):
    with pytest.raises(InputError, match="has no best checkpoint: train with evaluation.every"):
        best.restore_best(str(tmp_path), {})


def test_classes_are_drawn_at_random_and_image_by_image():
    first, all_ = drawn_classes(np.arange(7), 10, 3), drawn_classes(np.arange(5000), 10, 3)
    np.testing.assert_array_equal(first, all_[:7])
    np.testing.assert_array_equal(drawn_classes(np.array([4, 6]), 10, 3), all_[[4, 6]])
    assert np.bincount(all_).min() > 400 and (all_ != drawn_classes(np.arange(5000), 10, 4)).mean() > 0.8
