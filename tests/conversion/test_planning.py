"""What can't be converted is found before anything is written."""

import shutil

import pytest
import small_pipelines
from conversion.folders import arrays_of, assert_nothing_at, remembered
from safetensors.numpy import save_file

from marble.config import load_config
from marble.conversion import convert, writing
from marble.errors import InputError


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusion3Pipeline"])
@pytest.mark.parametrize("to", ["marble", "diffusers"])
def test_pipelines_of_other_models_are_refused_by_name(name, to, tmp_path):
    small_pipelines.write_json(tmp_path / "in" / "model_index.json", {"_class_name": name})
    with pytest.raises(InputError, match=f"{name} is not supported: what is, is StableDiffusionPipeline"):
        convert(tmp_path / "in", tmp_path / "out", to=to)
    assert_nothing_at(tmp_path / "out")


def test_wrong_input_is_told(tmp_path):
    source = small_pipelines.pixels(tmp_path / "in")
    digits = remembered(tmp_path / "run", load_config("digits:smoke"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    cases = [
        (dict(source=tmp_path / "nowhere", out=tmp_path / "out"), "is not there: give a workdir, a folder"),
        (dict(source=tmp_path / "empty", out=tmp_path / "out"), "is neither a workdir .* nor a folder of diffusers"),
        (dict(source=source, out=source), "--out .* is a folder with something in it: give a new name"),
        (dict(source=source, out=tmp_path / "file"), "--out .* is a file: give a new name"),
        (dict(source=source, out=source / "unet" / "out"), "--out .* lies in --in .*: give a place outside"),
        (dict(source=source, out=tmp_path / "x" / ".." / "in" / "out"), "--out .* lies in --in "),
        (dict(source=b"\xff/in".decode(errors="surrogateescape"), out=tmp_path / "out"), r"--in .*\\xff/in has a name"),
        (dict(source=source, out=tmp_path / "file" / "out"), "--out .* can't be made"),
        (dict(source=source, out="gs://bucket/out"), "is in a bucket: give a path of this machine"),
        (dict(source=digits, out=tmp_path / "out", to="marble"), "is a workdir of marble already"),
        (dict(source=digits, out=tmp_path / "out", image_size=8), "--image_size is not read of a run: leave it out"),
        (dict(source=source, out=tmp_path / "out", step=1), "--step is not read of a folder"),
        (dict(source=source, out=tmp_path / "out", dtype="int8"), "--dtype int8 must be one of float32, bfloat16"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            convert(**arguments)
    assert_nothing_at(tmp_path / "out")
    assert not (source / "out").exists() and not (source / "unet" / "out").exists()


def test_an_empty_folder_will_do_and_a_full_disk_will_not(tmp_path, monkeypatch):
    source = small_pipelines.pixels(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: free)
    with pytest.raises(InputError, match=r"takes 1\.\d MB, and its disk has 1\.0 MB free: make room"):
        convert(source, tmp_path / "out")
    assert_nothing_at(tmp_path / "out")


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    source = small_pipelines.pixels(tmp_path / "in")
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: array for name, array in arrays_of(path).items() if name != "conv_in.bias"}, path)
    monkeypatch.setattr("marble.conversion.planning.new_folder", None)
    for to in ("marble", "diffusers"):
        with pytest.raises(InputError, match="does not fit its config: conv_in.bias"):
            convert(source, tmp_path / "out", to=to)
