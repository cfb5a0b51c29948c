"""Folders of diffusers written anew: in a precision, a part alone, TAESD's two files as one folder."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
import small_pipelines
import torch_files
from conversion.folders import arrays_of, assert_same, assert_same_params, weights
from safetensors.numpy import save_file
from small_pipelines import write_json

from marble import loading
from marble.conversion import convert
from marble.convert import clip, taesd
from marble.convert.folder import open_part, params_of_part
from marble.convert.names import tensors_of
from marble.errors import InputError
from marble.models.clip import ClipVision
from marble.models.tiny_autoencoder import TinyAutoencoder

DTYPES = {"bfloat16": jnp.bfloat16, "float16": np.float16, "float32": np.float32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_is_written_in_a_dtype(dtype, tmp_path):
    own = np.float32 if dtype != "float32" else np.float16
    source = small_pipelines.stable_diffusion(tmp_path / "in", dtype=own)
    # What marble does not know keeps its names, and integers theirs.
    write_json(source / "safety_checker" / "config.json", {"architectures": ["Checker"], "dtype": "float32"})
    arrays = {"weight": np.arange(4, dtype=np.float32), "ids": np.arange(3)}
    save_file(arrays, source / "safety_checker" / "model.safetensors")
    (source / "README.md").write_text("about it")
    (source / "whole.ckpt").write_text("not read")
    convert(source, tmp_path / "out", to="diffusers", dtype=dtype)
    kind = DTYPES[dtype]
    before = {k: a if a.dtype.kind == "i" else np.asarray(a, kind) for k, a in weights(source).items()}
    assert_same(weights(tmp_path / "out"), before)
    assert json.loads((tmp_path / "out" / "safety_checker" / "config.json").read_text())["dtype"] == dtype
    names = lambda folder: {str(path.relative_to(folder)) for path in folder.rglob("*")}  # noqa: E731
    assert names(tmp_path / "out") == names(source) - {"whole.ckpt"}
    assert (tmp_path / "out" / "README.md").read_text() == "about it"
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == json.loads(
        (source / "model_index.json").read_text()
    )


def test_numbers_that_float16_does_not_hold_are_refused_and_nothing_is_left(tmp_path):
    source = small_pipelines.pixels(tmp_path / "in")
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    arrays = arrays_of(path)
    save_file({**arrays, "conv_in.bias": np.full_like(arrays["conv_in.bias"], 1e6)}, path)
    with pytest.raises(InputError, match=r"conv_in.bias has numbers up to 1e\+06, .* set --dtype bfloat16"):
        convert(source, tmp_path / "made" / "for" / "out", to="diffusers", dtype="float16")
    assert not (tmp_path / "made").exists()


def test_a_part_alone_becomes_safetensors(tmp_path):
    source = small_networks.write(tmp_path / "in", small_networks.autoencoder())
    path = source / "diffusion_pytorch_model.safetensors"
    arrays = arrays_of(path)
    path.unlink()
    torch_files.write_zip(source / "diffusion_pytorch_model.bin", arrays)
    convert(source, tmp_path / "out")
    assert_same(arrays_of(tmp_path / "out" / path.name), arrays)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", path.name}
    with pytest.raises(InputError, match="is an AutoencoderKL alone"):
        convert(source, tmp_path / "run", to="marble")


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("projection", [None, 6])
def test_an_image_tower_keeps_the_names_of_its_file(tmp_path, projection, is_bare):
    model = ClipVision(
        image_size=8, patch_size=4, width=12, num_layers=1, num_heads=2, hidden=16, projection=projection
    )
    network = small_networks.Network(model, clip.config_of(model))
    assert network.kind == f"CLIPVisionModel{'WithProjection' if projection else ''}"
    source = small_networks.write(tmp_path / "in", network)
    arrays = arrays_of(source / "model.safetensors")
    if is_bare:  # as transformers 5 writes one without its projection
        arrays = {name.removeprefix("vision_model."): array for name, array in arrays.items()}
        save_file(arrays, source / "model.safetensors")
    convert(source, tmp_path / "out")
    assert_same(arrays_of(tmp_path / "out" / "model.safetensors"), arrays)


def test_a_unet_with_its_scheduler_beside_it_is_a_model(tmp_path):
    source = small_pipelines.pixels(tmp_path / "in")
    shutil.copyfile(source / "scheduler" / "scheduler_config.json", source / "unet" / "scheduler_config.json")
    convert(source / "unet", tmp_path / "run")
    params = loading.load_params(str(tmp_path / "run"))[2]
    assert_same_params(params, params_of_part(open_part(source / "unet")))
    convert(source / "unet", tmp_path / "half", to="diffusers", dtype="float16")
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == sorted(
        path.name for path in (source / "unet").iterdir()
    )


TAESD = small_networks.Network(
    tiny := TinyAutoencoder(channels=64, num_blocks=(1, 3, 3, 3), decoder_num_blocks=(1, 3, 3, 3)),
    taesd.config_of(tiny),
)


def test_the_two_files_of_taesd(tmp_path):
    params = small_networks.random_params(TAESD.shapes())
    named = dict(tensors_of(TAESD.table, params))
    for half in ("encoder", "decoder"):
        # The published decoder counts a layer more.
        number = lambda name, half=half: int(name.split(".")[2]) + (half == "decoder")  # noqa: E731
        loose = {
            ".".join([str(number(name)), *name.split(".")[3:]]): array
            for name, array in named.items()
            if name.startswith(half)
        }
        (tmp_path / "in").mkdir(exist_ok=True)
        save_file(loose, tmp_path / "in" / f"taesd_{half}.safetensors")
    convert(tmp_path / "in", tmp_path / "out")
    assert_same({name: array for (_, name), array in weights(tmp_path / "out").items()}, named)
    part = open_part(tmp_path / "out")
    assert part.model == TAESD.model and taesd.scale_of(part.config) == 1
    with pytest.raises(InputError, match="is a TAESD alone"):
        convert(tmp_path / "in", tmp_path / "run", to="marble")
