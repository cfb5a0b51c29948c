"""Folders of networks, written and read by ours. Beside diffusers: test_folder_parity."""

import json
import logging
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
from small_networks import Network, random_params

from marble.convert import clip, files, safetensors_file
from marble.convert.folder import open_part, params_of_part, write_part
from marble.errors import InputError
from marble.models.clip import Clip, ClipVision

TEXT, PROJECTED = small_networks.clip_text(), small_networks.clip_text(projection=6)
VISION = ClipVision(image_size=8, patch_size=4, width=12, num_layers=1, num_heads=2, hidden=16, projection=6)
NETWORKS = {
    "UNet2DConditionModel": small_networks.unet(),
    "UNet2DConditionModel, SDXL": small_networks.unet_xl(),
    "UNet2DConditionModel, inpainting": small_networks.inpainting_unet(),
    "UNet2DModel": small_networks.pixels(),
    "DiTTransformer2DModel": small_networks.classes(),
    "AutoencoderKL": small_networks.autoencoder(),
    "AutoencoderTiny": small_networks.tiny_autoencoder(),
    "CLIPTextModel": TEXT,
    "CLIPTextModelWithProjection": PROJECTED,
    "CLIPModel": Network(whole := Clip(PROJECTED.model, VISION), clip.config_of(whole)),
    "BertModel": small_networks.bert_text(),
}


def written(folder, name):
    """The parameters that the network's folder is written with."""
    small_networks.write(folder, NETWORKS[name])
    return random_params(NETWORKS[name].shapes())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_there_and_back(tmp_path, name):
    params = written(tmp_path, name)
    part = open_part(tmp_path)
    assert part.model == NETWORKS[name].model and part.kind == name.partition(",")[0]
    found = params_of_part(part)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and (a == b).all(), found, params))
    assert jax.tree.leaves(params_of_part(part, jnp.bfloat16))[0].dtype == jnp.bfloat16
    assert open_part(tmp_path, dtype=jnp.bfloat16).model.dtype == jnp.bfloat16 if name != "CLIPModel" else True


def test_a_part_is_written_a_tensor_at_a_time(tmp_path):
    model = TEXT.model.clone(vocab_size=60000, width=64, num_layers=12, num_heads=1, hidden=4096)
    config = clip.config_of(model)
    params = random_params(Network(model, config).shapes())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    tracemalloc.start()
    path = write_part(tmp_path, config, clip.table(model), params, dtype=np.float16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 2.5 * largest and peak < 1.5 * largest
    assert path.stat().st_size < 0.51 * size


def test_which_weights_are_taken(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    written(tmp_path, "AutoencoderKL")
    plain, half = (tmp_path / f"diffusion_pytorch_model.{end}safetensors" for end in ("", "fp16."))
    shutil.copy(plain, half)
    assert open_part(tmp_path).path == plain and "half precision" not in caplog.text
    plain.unlink()
    assert open_part(tmp_path).path == half and "half precision alone" in caplog.text
    half.unlink()
    with pytest.raises(InputError, match="has no weights: download them into it, diffusion_pytorch_model.safetensors"):
        open_part(tmp_path)


def test_a_folder_that_is_sharded(tmp_path):
    params = written(tmp_path, "CLIPTextModel")
    tensors = files.read(tmp_path / "model.safetensors")
    names = sorted(tensors)
    index = {}
    for i, part in enumerate((names[::2], names[1::2])):
        arrays = {name: tensors[name].read() for name in part}
        shapes = {name: (a.shape, a.dtype) for name, a in arrays.items()}
        safetensors_file.write(tmp_path / f"model-{i}.safetensors", arrays.items(), shapes)
        index |= dict.fromkeys(part, f"model-{i}.safetensors")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = params_of_part(open_part(tmp_path))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), found, params))


def test_old_classes_of_dit(tmp_path):
    written(tmp_path, "DiTTransformer2DModel")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_class_name": "Transformer2DModel"}))
    assert open_part(tmp_path).kind == "DiTTransformer2DModel"
    path.write_text(json.dumps(config | {"_class_name": "Transformer2DModel", "norm_type": "layer_norm"}))
    with pytest.raises(InputError, match="Transformer2DModel is not supported"):
        open_part(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "config.json is not there: give a network's folder"),
        ("{", "is not JSON"),
        ("[]", "is JSON, but no object"),
        ("{}", "config.json names no class is not supported: what is, is UNet2DConditionModel"),
        ('{"_class_name": "FluxTransformer2DModel"}', "FluxTransformer2DModel is not supported: what is, is UNet2D"),
        ('{"architectures": ["T5EncoderModel"]}', "T5EncoderModel is not supported: what is, is UNet2D"),
        ('{"_class_name": "AutoencoderKL", "act_fn": "relu"}', "config.json: AutoencoderKL with act_fn='relu'"),
    ],
)
def test_a_folder_that_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        open_part(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_config(tmp_path):
    written(tmp_path, "CLIPTextModel")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 31}))
    is_there = rf"\[{config['vocab_size']}, 12\]"
    with pytest.raises(InputError, match=f"model.safetensors does not fit its config: .* is {is_there} and must be"):
        params_of_part(open_part(tmp_path))


def test_a_folder_that_can_t_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be made"):
        written(tmp_path / "file", "CLIPTextModel")
