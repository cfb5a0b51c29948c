"""Each suite in its tiny form."""

import json
import os
import subprocess
import sys

import pytest
from processes import ROOT

from benchmarks import __main__ as runner


@pytest.fixture
def suite(tmp_path):
    """Runs one in this process, and gives its tables."""

    def run(name, *words, status=0):
        out = tmp_path / f"{name}.json"
        assert runner.main(["--suite", name, "--smoke", "--out", str(out), *map(str, words)]) == status
        found = json.loads(out.read_text())
        assert found["suite"] == name and found["machine"]["versions"]["jax"]
        return found["tables"]

    return run


def test_train(suite):
    tables = suite("train", "--peer", "none", "--network", "digits")
    (peak,) = tables["Matrix peak, measured"]
    assert peak["dtype"] == "float32" and "Bars" not in tables
    trained, forward = tables["In turns"]
    assert (trained["what"], forward["what"], forward["whose"], forward["batch"]) == ("train", "forward", "marble", 2)
    for row in (trained, forward):
        assert row["images_per_second"] == pytest.approx(1000 * 2 / row["ms"])
        assert row["share_of_matrix_peak"] == pytest.approx(row["gflops"] / peak["gflops"])
        assert row["program_mib"] > 4 * row["parameters"] / 2**20
    ratio = trained["gflops"] * trained["ms"] / (forward["gflops"] * forward["ms"])
    assert 2.5 < ratio < 4


def test_sample(suite):
    tables = suite("sample", "--peer", "none", "--dtype", "float32")
    (row,) = tables["In turns"]
    assert (row["steps"], row["batch"], row["whose"], row["what"]) == (3, 2, "marble", "ancestral")
    assert row["images_per_second"] > 0 and row["gflops"] > 0


def test_data(suite):
    (row,) = suite("data")["The input"]
    assert row["processes"] == 1
    assert row["times_what_one_H100_takes"] == pytest.approx(row["images_per_second"] / 8000)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_compile_finds_all_its_programs_in_a_second_process(suite):
    tables = suite("compile", "--peer", "none")
    for first, second in zip(tables["Programs"][::2], tables["Programs"][1::2], strict=True):
        assert first["program"] == second["program"] and (first["process"], second["process"]) == ("first", "second")
        assert first["misses"] > 0 and second["misses"] == 0 and second["hits"] == second["programs"] > 0
    against = [(row["against"], row["batch"], row["steps"]) for row in tables["An image"]]
    assert against == [("batch", 1, 2), ("batch", 2, 2), ("side", 2, 2), ("steps", 2, 2)]
    assert all(row["ms_an_image"] == pytest.approx(1000 * row["seconds"] / row["batch"]) for row in tables["An image"])


@pytest.mark.slow
@pytest.mark.end_to_end
def test_startup(suite):
    tables = suite("startup", "--peer", "none")
    seconds = {row["what"]: row["seconds"] for row in tables["Starting"]}
    assert seconds["python"] < seconds["import jax"] and seconds["marble --help"] < seconds["import marble.pipelines"]
    cold, warm = tables["The first image, 2 steps"]
    assert cold["what"] == "marble sample, cold" and warm["what"] == "marble sample, warm"
    assert {row["package"] for row in tables["Installed"]} >= {"jaxlib", "scipy"}


@pytest.mark.slow
@pytest.mark.end_to_end
def test_scaling(suite):
    one, two = next(iter(suite("scaling").values()))
    assert (one["devices"], two["devices"], one["share_of_one_device"]) == (1, 2, 1)
    assert two["images_per_second"] == pytest.approx(1000 * 4 / two["ms"])


@pytest.mark.slow
@pytest.mark.end_to_end
def test_few_steps_and_lossless(suite, tmp_path):
    words = [sys.executable, "-m", "marble.cli.main", "train", "--config", "digits:smoke"]
    subprocess.run([*words, "--workdir", tmp_path / "run"], cwd=ROOT, check=True, env={**os.environ})
    (row,) = suite("few_steps", "--workdir", tmp_path / "run")["Accuracy of the nearest neighbour"]
    assert (row["sampler"], row["spacing"]) == ("ddim", "linspace") and 0 <= row["2_steps"] <= 1
    tables = suite("lossless", "--workdir", tmp_path / "run")
    assert tables["The compressor"][0]["images"] == 8
    file = tables["Lengths"][0]
    assert file["share_of_the_file"] == 1 and file["bits_an_image"] == pytest.approx(64 * file["bits_a_dimension"])
    assert tables["Prefixes"][-1]["distortion_in_levels"] == 0 and tables["Prefixes"][-1]["share"] == 1


@pytest.mark.slow
def test_features(suite):
    (row,) = suite("features", "--side", "75")["A network of features"]
    assert row["images_per_second"] > 0 and row["most_mib"] > 0
