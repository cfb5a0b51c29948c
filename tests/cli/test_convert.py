"""marble convert: its words and flags, what it says, and its exit status."""

import math

import numpy as np
import pytest
import small_adapters
import small_pipelines

import marble
from marble.cli.convert import placed
from marble.cli.main import main
from marble.conversion import convert
from marble.convert import files
from marble.errors import InputError


def test_two_words_and_flags(tmp_path, capsys):
    source = small_pipelines.pixels(tmp_path / "in")
    run, theirs, half = (tmp_path / name for name in ("run", "theirs", "half"))
    assert main(["convert", str(source), str(run)]) == 0
    said = capsys.readouterr().err
    weights = files.read(source / "unet" / "diffusion_pytorch_model.safetensors")
    count = sum(math.prod(tensor.shape) for tensor in weights.values())
    assert f"wrote {run}: a workdir of marble, with {count:,} parameters in its checkpoint" in said
    assert "checkpoint" in said and "B/s" in said
    assert main(["convert", f"--in={run}", "--out", str(theirs), "--to", "diffusers"]) == 0
    assert main(["convert", str(theirs), str(half), "--to=diffusers", "--dtype=bfloat16"]) == 0
    assert "unet" in capsys.readouterr().err
    sizes = [(path / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size for path in (theirs, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert main(["sample", "--workdir", str(run), "--num", "2", "--steps", "3", "--out", str(tmp_path / "drawn")]) == 0
    drawn = np.load(tmp_path / "drawn" / "samples.npz")["arr_0"]
    np.testing.assert_array_equal(drawn, marble.load(str(source)).sample(2, steps=3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--in is missing"),
        (["one"], "--out is missing"),
        (["one", "two", "three"], "takes IN and OUT, but was given 'one two three'"),
        (["one", "two", "--to", "jpeg"], "jpeg"),
        (["one", "two", "--dtype", "int8"], "int8"),
        (["one", "two", "--steps", "1"], "steps"),
        (["nowhere", "two"], "--in nowhere is not there"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("marble: ") and message in said
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A pipeline's folder, the workdir of it, and those of adapters of it and of one without text."""
    folder = tmp_path_factory.mktemp("runs")
    published = small_pipelines.stable_diffusion(folder / "published")
    convert(published, folder / "whole")
    small_adapters.write(folder / "adapters", published)
    small_adapters.write(folder / "of_pixels", small_pipelines.pixels(folder / "pixels"))
    return folder


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("nowhere", [], "--to lora is for runs that train adapters, and nowhere is no run: leave it out"),
        ("published", [], "--to lora is for runs that train adapters, and published is no run: leave it out"),
        ("whole", [], "whole trains its whole network, and has no adapters: leave --to lora out"),
        ("of_pixels", [], "files of LoRA are of a ConditionalUNet or a DiT, and this model is a UNet"),
        ("adapters", ["--step=7"], "no checkpoint of step 7"),
        ("adapters", ["--image_size=8"], "--image_size is not read of a run: leave it out"),
        ("adapters", ["--dtype=int8"], "int8"),
    ],
)
def test_what_has_no_adapters_is_told(runs, source, words, message, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    there = sorted(runs.iterdir())
    assert main(["convert", source, "out", "--to=lora", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 1 and message in said[0]
    assert sorted(runs.iterdir()) == there


def test_a_run_s_adapters_are_one_file(runs, tmp_path, capsys):
    assert main(["convert", str(runs / "adapters"), str(tmp_path / "out"), "--to", "lora"]) == 0
    assert f"wrote {tmp_path / 'out'}: adapters for diffusers" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pytorch_lora_weights.safetensors"]


def test_words_come_first():
    assert placed(["a", "b", "--to", "marble"]) == ["--in=a", "--out=b", "--to", "marble"]
    assert placed(["--in", "a"]) == ["--in", "a"]
    with pytest.raises(InputError):
        placed(["a", "b", "c"])
