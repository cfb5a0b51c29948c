"""Files of papers' code, written by ours by the names of its tables, as workdirs and folders of diffusers."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import small_networks
import small_pipelines
import torch_files
import vocabularies
from conversion.folders import arrays_of, assert_same, assert_same_params, weights
from safetensors.numpy import save_file
from small_networks import Network, random_params

from marble import loading
from marble.conversion import convert, file_kinds, files_of_papers
from marble.convert import adm, autoencoder_kl, clip, compvis, conditional_unet, ddpm, dit
from marble.convert.folder import open_part, params_of_part
from marble.convert.kinds import shapes_of
from marble.convert.names import flat, tensors_of
from marble.convert.tensors import Tensor, held
from marble.errors import InputError
from marble.models import AdmUNet, ConditionalUNet, UNet
from marble.models.adm import AdmClassifier
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.clip import ClipText
from marble.models.dit import DiT

SIZES = dict(channels=32, channel_mult=(1, 2), num_res_blocks=1)
"""Of groups of 32, which no file says."""
UNET = ConditionalUNet(**SIZES, transformer_depth=(1, 0), num_heads=(8, 8), text_channels=768)


def write_table(path, table, shapes, seed=0, prefix=""):
    """A file by the names of a table; its random parameters."""
    params = random_params(shapes, seed)
    save_file({prefix + name: array for name, array in tensors_of(table, params)}, path)
    return params


def compvis_file(path):
    """(a file by CompVis' names, its networks' arrays by diffusers')."""
    vocab, _ = vocabularies.clip_bpe()
    vae = AutoencoderKL(**SIZES)
    text = ClipText(len(vocab), width=768, num_layers=1, num_heads=12, hidden=16, eos_token_id=len(vocab) - 1)
    networks = {
        "unet": Network(UNET, conditional_unet.config_of(UNET)),
        "vae": Network(vae, autoencoder_kl.config_of(vae, scale=0.18215)),
        "text_encoder": Network(text, clip.config_of(text)),
    }
    arrays = {part: dict(tensors_of(each.table, random_params(each.shapes()))) for part, each in networks.items()}
    tensors = {part: held(found) for part, found in arrays.items()}
    written = compvis.to_compvis(tensors, {part: network.config for part, network in networks.items()})
    save_file({name: tensor.read() for name, tensor in written}, path)
    return path, arrays


def test_a_stable_diffusion_by_compvis_names(tmp_path):
    source, arrays = compvis_file(tmp_path / "sd.safetensors")
    words = small_networks.write_tokenizer(tmp_path / "tokenizer")
    for to in ("marble", "diffusers"):
        with pytest.raises(InputError, match="has no tokenizer in it: set --tokenizer FOLDER"):
            convert(source, tmp_path / "out", to=to)
    convert(source, tmp_path / "theirs", to="diffusers", tokenizer=[words])
    expected = {(part, name): array for part, found in arrays.items() for name, array in found.items()}
    found = {(Path(path).parent.name, name): array for (path, name), array in weights(tmp_path / "theirs").items()}
    assert_same(found, expected)
    convert(source, tmp_path / "ours", tokenizer=[words])
    convert(tmp_path / "theirs", tmp_path / "again")
    _, experiment, params = loading.load_params(str(tmp_path / "ours"))
    assert_same_params(params, loading.load_params(str(tmp_path / "again"))[2])
    assert experiment.objective.model == UNET and experiment.image.shape == (512, 512, 3)
    ours, again = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "again"))
    assert ours == again


def test_a_ddpm_of_the_first_copies(tmp_path):
    model = UNet(**SIZES, attention_resolutions=(4,), epsilon=1e-6, time_convention="ddpm", pads_both_sides=False)
    shapes = Network(model, ddpm.config_of(model, sample_size=8, in_channels=3)).shapes()
    source = tmp_path / "model.safetensors"
    params = write_table(source, ddpm.original_table(model, 8), shapes, prefix="module.")
    with pytest.raises(InputError, match="does not say its images' height: set --image_size"):
        convert(source, tmp_path / "none")
    convert(source, tmp_path / "ours", image_size=8)
    _, experiment, found = loading.load_params(str(tmp_path / "ours"))
    assert_same_params(found, params)
    assert experiment.objective.model == model and experiment.image.shape == (8, 8, 3)
    convert(source, tmp_path / "theirs", to="diffusers", image_size=8)
    assert_same_params(params_of_part(open_part(tmp_path / "theirs" / "unet")), params)


def test_an_adm(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model = AdmUNet(**SIZES, attention_resolutions=(4,), out_channels=6, num_heads=4, num_classes=5)
    source = tmp_path / "model.safetensors"
    params = write_table(source, adm.table(model, 8), adm.shapes_of(model, 8))
    convert(source, tmp_path / "run", image_size=8)
    assert "assumed: num_heads 4" in caplog.text and "none of the published models" in caplog.text
    config, data = loading.recalled(str(tmp_path / "run"))
    _, experiment, found = loading.load_params(str(tmp_path / "run"))
    assert_same_params(found, params)
    assert experiment.objective.model == model and data.image.shape == (8, 8, 3)
    assert config["diffusion"]["variance_type"] == config["sampling"]["variance_type"] == "learned_range"
    assert (config["diffusion"]["beta_start"], config["diffusion"]["beta_end"]) == (1e-4, 0.02)
    with pytest.raises(InputError, match="network of ADM, which diffusers does not have: set --to marble"):
        convert(source, tmp_path / "out", to="diffusers", image_size=8)


def test_a_network_within_a_training_s_checkpoint_is_its_average(tmp_path):
    model = AdmUNet(**SIZES, attention_resolutions=(4,))
    table, shapes = adm.table(model, 8), adm.shapes_of(model, 8)
    trees = {part: write_table(tmp_path / part, table, shapes, seed) for seed, part in enumerate(("ema", "model"))}
    arrays = {part: arrays_of(tmp_path / part) for part in trees}
    torch_files.write_zip(tmp_path / "all.pt", {"model": arrays["model"], "ema": arrays["ema"]})
    assert file_kinds.opened(tmp_path / "all.pt").kind == "ADM"
    convert(tmp_path / "all.pt", tmp_path / "run", image_size=8)
    assert_same_params(loading.load_params(str(tmp_path / "run"))[2], trees["ema"])


def test_a_dit_by_the_paper_s_names(tmp_path):
    model = DiT(8, 2, 384, 1, 6, num_classes=3, grid_size=2)
    params = random_params(shapes_of(model, {"sample_size": 4, "in_channels": 4}, dit.NAME))
    source = tmp_path / "dit.safetensors"
    save_file(dict(dit.fused(tensors_of(dit.original_table(model), params), model)), source)
    folder = small_pipelines.stable_diffusion(tmp_path / "sd")
    with pytest.raises(InputError, match="with no autoencoder in it: set --vae FOLDER"):
        convert(source, tmp_path / "none")
    with pytest.raises(InputError, match="--vae .*text_encoder is a CLIPTextModel, which is no autoencoder"):
        convert(source, tmp_path / "none", vae=folder / "text_encoder")
    convert(source, tmp_path / "run", vae=folder / "vae")
    _, experiment, found = loading.load_params(str(tmp_path / "run"))
    assert_same_params(found, params)
    assert experiment.objective.model == model and experiment.image.shape == (8, 8, 3)
    assert experiment.objective.conditioner.has_null
    with pytest.raises(InputError, match="diffusers' has other sinusoids of the time"):
        convert(source, tmp_path / "out", to="diffusers", vae=folder / "vae")


def adm_of(table, shapes, name):
    """What is made of an ADM's file of that name, whose numbers are not to be read."""
    ours = flat(shapes)

    def unread(entry):
        zeros = np.broadcast_to(np.float32(0), ours[entry.ours].shape)
        return Tensor(entry.layout.to_theirs(zeros).shape, np.dtype("f4"), None)

    tensors = {entry.theirs: unread(entry) for entry in table}
    return files_of_papers.model_of(file_kinds.File("ADM", tensors, Path(name)), image_size=None)


def published_adm(name):
    found = next(found for found in adm.PUBLISHED if name in found.files)
    return adm_of(adm.table(found.model, found.image_size), adm.shapes_of(found.model, found.image_size, 3), name)


def test_the_process_of_a_published_adm():
    made = published_adm("64x64_diffusion.pt")
    assert made.config["diffusion"] == dict(
        beta_schedule="squaredcos_cap_v2",
        num_train_timesteps=1000,
        prediction_type="eps",
        variance_type="learned_range",
    )
    made = published_adm("imagenet64_cond_270M_250K.pt")
    assert made.config["diffusion"]["num_train_timesteps"] == 4000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10_uncond_50M_500K.pt", "told the step times 0.25 .* can't be converted"),
        ("64_256_upsampler.pt", "is an upsampler, which reads a small image"),
    ],
)
def test_what_marble_has_no_pipeline_of(name, message):
    with pytest.raises(InputError, match=message):
        published_adm(name)


def test_a_classifier_is_no_model_of_images():
    model = AdmClassifier(**SIZES, attention_resolutions=(4,))
    with pytest.raises(InputError, match="is a classifier that guides another model"):
        adm_of(adm.table(model, 8), adm.shapes_of(model, 8), "c.pt")
