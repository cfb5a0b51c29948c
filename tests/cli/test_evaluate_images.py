"""marble evaluate on images that need no model, judged by a small network."""

import inspect
import json
import re

import numpy as np
import pytest
from features.toy_network import linear_network

import marble
from marble import evaluation
from marble.cli.evaluate import METRICS, OF_MODEL, OF_SAMPLES
from marble.cli.main import main
from marble.evaluation import ModelOptions, command, evaluator, judged
from marble.evaluation.samples import SampleOptions

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """The one network that there is."""
    monkeypatch.setattr(evaluator, "open_features", lambda spec, **_: linear_network())


@pytest.fixture
def folders(tmp_path):
    """Two npz of images."""
    for name, size in (("a", 20), ("b", 30)):
        np.savez(tmp_path / f"{name}.npz", RNG.integers(0, 256, (size, 8, 8, 3), np.uint8))
    return tmp_path


def test_the_command_is_the_function_and_the_sets_need_no_model(folders, capsys):
    out, report = folders / "new" / "metrics.json", folders / "other" / "report.html"
    words = ["evaluate", "--images", str(folders / "a.npz"), "--reference", str(folders / "b.npz")]
    assert main([*words, "--metrics", "fd,kid", "--out", str(out), "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    kept = json.loads(out.read_text())
    (entry,) = kept["fd"].values()
    options = evaluation.EvaluationOptions(metrics=("fd",))
    found = marble.evaluate(images=str(folders / "a.npz"), reference=str(folders / "b.npz"), options=options)
    assert entry["value"] == found.numbers[0].value and f"{entry['value']:.4g}" in printed
    assert entry["stamp"]["command"].startswith("marble evaluate --images ") and entry["interval"]["level"] == 0.95
    assert list(kept["fd"]) == [f"FD-linear, {folders / 'b.npz'}, 20"] and list(kept) == ["fd", "kid"]
    assert "FD-linear" in report.read_text()


def test_a_number_of_another_protocol_is_not_overwritten_in_silence(folders, capsys):
    words = ["evaluate", "--images", str(folders / "a.npz"), "--reference", str(folders / "b.npz")]
    out = ["--out", str(folders / "metrics.json")]
    assert main([*words, *out]) == 0
    assert main([*words, *out]) == 0
    assert "another protocol" not in capsys.readouterr().err
    assert main([*words, *out, "--reference_num", "10"]) == 0
    said = capsys.readouterr().err
    assert "FD-linear: " in said and "reference.num: 10 against 30" in said
    assert main([*words, "--compare_with", str(folders / "metrics.json"), "--num", "5"]) == 0
    said = capsys.readouterr().err
    assert "images.num: 5 against 20" in said and "reference.num: 30 against 10" in said


def test_a_file_is_compared_with_as_it_was_before_it_is_written(folders, capsys):
    out = folders / "metrics.json"
    words = ["evaluate", "--reference", str(folders / "b.npz"), "--out", str(out), "--images"]
    assert main([*words, str(folders / "a.npz")]) == 0
    (before,) = json.loads(out.read_text())["fd"].values()
    np.savez(folders / "c.npz", RNG.integers(0, 100, (20, 8, 8, 3), np.uint8))
    assert main([*words, str(folders / "c.npz"), "--compare_with", str(out)]) == 0
    (after,) = json.loads(out.read_text())["fd"].values()
    said = capsys.readouterr().err
    assert (
        f"FD-linear: {after['value']:.4g} against {before['value']:.4g} " in said and before["value"] != after["value"]
    )
    assert main([*words, str(folders / "a.npz"), "--metrics", "kid", "--compare_with", str(out)]) == 0
    assert "has none of KID-linear: nothing is compared" in capsys.readouterr().err


def test_the_images_of_a_reference_batch_are_read_where_its_statistics_do_not_do(folders):
    """As ADM's, which have both in one file."""
    with np.load(folders / "b.npz") as arrays:
        images = arrays["arr_0"]
    np.savez(folders / "adm.npz", arr_0=images, mu=np.zeros(5), sigma=np.eye(5))
    options = evaluation.EvaluationOptions(metrics=["kid"])
    found = [
        marble.evaluate(images=str(folders / "a.npz"), reference=str(folders / name), options=options)
        for name in ("b.npz", "adm.npz")
    ]
    assert found[0].numbers[0].value == found[1].numbers[0].value
    (number,) = marble.evaluate(images=str(folders / "a.npz"), reference=str(folders / "adm.npz")).numbers
    assert number.stamp.reference["source"].endswith("adm.npz") and "num" not in number.stamp.reference


def test_what_can_t_be_written_to_is_told_before_anything_is_measured(folders, monkeypatch, capsys):
    monkeypatch.setattr(evaluator, "collect", None)
    damaged = folders / "damaged.json"
    words = ["evaluate", "--images", str(folders / "a.npz"), "--reference", str(folders / "b.npz")]
    for text in ("{", '{"fd": {"FD-linear, B, 12": 3}}', '{"fd": {"x": {"name": "FD-linear"}}}'):
        damaged.write_text(text)
        for flag in ("--out", "--compare_with"):
            assert main([*words, flag, str(damaged)]) == 2
            assert f"{damaged} is damaged" in capsys.readouterr().err and damaged.read_text() == text


def test_the_names_of_the_command_are_those_of_the_metrics_and_of_what_draws():
    assert set(METRICS) == {command.BITS, *judged.METRICS}
    assert {"seed", "batch_size", *OF_SAMPLES} == set(SampleOptions.__dataclass_fields__)
    of_load = set(inspect.signature(marble.load).parameters) - {"workdir", "sampler"}
    assert set(OF_MODEL) == set(ModelOptions.__dataclass_fields__) == of_load


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "A", "--workdir", "W"], "give a model or images, one of them"),
        (["--images", "A", "--metrics", "bpd"], "bpd is of a model, and not of images"),
        (["--images", "A", "--steps", "5"], "--steps is for --workdir, and not for --images: leave it out"),
        (["--images", "A", "--split", "test"], "--split is for --metrics bpd: leave it out"),
        (["--images", "A", "--seed", "5"], "--seed is for --workdir, and not for --images: leave it out"),
        (["--images", "A", "--metrics", "is", "--reference", "B"], "--reference is for metrics that compare"),
        (["--images", "A", "--metrics", "psnr", "--reference", "B", "--resize", "ddpm"], "--resize is for metrics of"),
        (["--images", "A", "--reference", "B", "--image_size", "16"], "b.npz is an npz of 8x8, which is not resized"),
        (["--images", "A", "--reference", "B", "--image_size", "0"], "--image_size 0 must be at least 1"),
        (["--workdir", "W", "--lora_scale", "2"], "--lora_scale is for --lora: leave it out"),
        (["--images", "A", "--reference", "B", "--metrics", "cmmd", "--save_statistics", "s.npz"], "cmmd needs"),
        (["--images", "A"], "metric fd needs a reference: give --reference"),
        (["--images", "A", "--reference", "B", "--num", "21"], "21 images asked for, and .*a.npz has 20"),
        (["--images", "A", "--reference", "B", "--num", "1"], "features are 1, and 2 is the least"),
        (["--images", "A", "--reference", "digits"], "a.npz is RGB and digits:train is grey"),
        (["--images", "A", "--reference", "nowhere"], "nowhere"),
        (["--images", "A", "--reference", "B", "--compare_with", "none.json"], "there is no none.json to compare"),
        (["--workdir", "W", "--metrics", "bpd", "--features", "effnet"], "--features is for metrics of images"),
        (["--images", "A", "--out", "."], "--out .* can't be written to"),
        (["--images", "A", "--report", "."], "--report .* can't be written to"),
        ([], "--workdir is missing"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(words, message, folders, capsys):
    paths = {"A": folders / "a.npz", "B": folders / "b.npz", "W": folders}
    assert main(["evaluate", *(str(paths.get(word, word)) for word in words)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]

    assert re.search(message, line)
