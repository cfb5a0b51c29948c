"""Folders with something missing or wrong in them: nothing is written, and one line says which part it is."""

import json
import shutil

import numpy as np
import pytest
import small_networks
import small_pipelines
from conversion.folders import arrays_of, assert_nothing_at, assert_same, weights
from safetensors.numpy import save_file

import marble
from marble.cli.convert import placed
from marble.conversion import convert
from marble.convert import clip
from marble.errors import InputError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return small_pipelines.stable_diffusion(tmp_path_factory.mktemp("whole") / "sd")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "sd")


def without(name):
    return lambda folder: shutil.rmtree(folder / name)


def without_weights(folder):
    (weights_of(folder / "unet")).unlink()


def without_words(folder):
    for file in (folder / "tokenizer").iterdir():
        file.unlink()


def of_no_parts(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": [None, None]}))


def weights_of(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def changed(part, change):
    """The part's arrays, changed in place."""

    def apply(folder):
        path = weights_of(folder / part)
        arrays = arrays_of(path)
        change(arrays)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

    return apply


def lose_one(arrays):
    del arrays["decoder.conv_in.weight"]


def make_whole(arrays):
    arrays["conv_in.weight"] = arrays["conv_in.weight"].astype(np.int32)


def make_true(arrays):
    arrays["conv_in.bias"] = arrays["conv_in.bias"] > 0


def lose_a_number(arrays):
    arrays["conv_in.bias"][1] = np.nan


def overflow(arrays):
    arrays["decoder.conv_out.bias"][0] = np.inf


@pytest.mark.parametrize("to", ["marble", "diffusers"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("unet"), "has no unet/, which its model_index.json names"),
        (without("vae"), "has no vae/, which its model_index.json names"),
        (without("scheduler"), "has no scheduler/, which its model_index.json names"),
        (without("tokenizer"), "tokenizer"),
        (without_weights, "unet"),
        (without_words, "has no tokenizer that can be read"),
        (of_no_parts, "names no unet and no transformer"),
        (changed("vae", lose_one), r"decoder.conv_in.weight .* is not there"),
        (changed("unet", make_whole), "conv_in.weight is of int32 and must be of floats"),
        (changed("unet", make_true), "conv_in.bias is of bool and must be of floats"),
        (changed("unet", lose_a_number), "unet/.* has NaN or infinity in conv_in.bias:"),
        (changed("vae", overflow), "vae/.* has NaN or infinity in decoder.conv_out.bias:"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_both_ways(folder, tmp_path, damage, message, to):
    damage(folder)
    with pytest.raises(InputError, match=message):
        convert(folder, tmp_path / "out", to=to)
    assert_nothing_at(tmp_path / "out")


def test_encoders_of_another_pipeline_are_refused(folder, tmp_path):
    model = small_networks.clip_text().model.clone(width=24)
    shutil.rmtree(folder / "text_encoder")
    small_networks.write(folder / "text_encoder", small_networks.Network(model, clip.config_of(model)))
    said = "the network reads texts of 12 channels, and text_encoder says 24: they are not of one pipeline"
    with pytest.raises(InputError, match=said):
        convert(folder, tmp_path / "out")


def test_a_text_encoder_keeps_the_names_of_its_file(folder, tmp_path):
    path = weights_of(folder / "text_encoder")
    bare = {name.removeprefix("text_model."): array for name, array in arrays_of(path).items()}
    assert not any(name.startswith("text_model.") for name in bare)
    save_file(bare, path)  # as transformers 5 writes it
    convert(folder, tmp_path / "run")
    convert(tmp_path / "run", tmp_path / "back")
    convert(folder, tmp_path / "again", to="diffusers")
    for back in ("back", "again"):
        assert_same(weights(tmp_path / back / "text_encoder"), weights(folder / "text_encoder"))


def test_one_network_s_folder_is_no_pipeline(folder):
    with pytest.raises(InputError, match="is not the workdir of a run: its config.json is of a network of another"):
        marble.load(str(folder / "text_encoder"))


def test_flags_come_after_the_places():
    assert placed(["a", "b", "--to", "diffusers"]) == ["--in=a", "--out=b", "--to", "diffusers"]
    assert placed(["--help"]) == ["--help"] and placed(["--in=a", "--out=b"]) == ["--in=a", "--out=b"]
    with pytest.raises(InputError, match="takes IN and OUT first, and flags after them: --to came first"):
        placed(["--to", "diffusers", "a", "b"])
