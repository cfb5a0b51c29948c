"""What a pipeline's folder says, read from its index and configs alone. Beside diffusers: test_folder_parity."""

import json
import logging

import pytest
import small_networks
import small_pipelines

from marble.convert.pipeline_folder import described, read_index
from marble.errors import InputError
from marble.models import UNet
from marble.models.conditional_unet import ConditionalUNet
from marble.models.dit import DiT
from marble.objectives.diffusion import Diffusion

STABLE = dict(unet=small_networks.unet(), vae=small_networks.autoencoder(), text_encoder=small_networks.clip_text())
DDIM = {"_class_name": "DDIMScheduler"}


def pipeline(folder, name="StableDiffusionPipeline", scheduler=DDIM, index=None, **networks):
    """A pipeline's folder without weights."""
    for part, network in networks.items():
        small_pipelines.write_json(folder / part / "config.json", network.config)
    small_pipelines.write_index(folder, name, networks, scheduler, **index or {})
    return folder


def test_an_index_and_what_is_not_read_of_it(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    index = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "feature_extractor": [None, None]}
    pipeline(tmp_path, index=index | {"requires_safety_checker": True}, **STABLE)
    found = read_index(tmp_path)
    assert found.name == "StableDiffusionPipeline" and not caplog.text
    described(tmp_path)
    assert "not read: safety_checker" in caplog.text
    assert found.parts == {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "scheduler": "DDIMScheduler",
    }
    assert found.folder("unet") == tmp_path / "unet"
    with pytest.raises(InputError, match="has no elsewhere/, which its model_index.json names"):
        found.folder("elsewhere")
    (tmp_path / "config.json").write_text("{}")  # as in the oldest ones
    assert found.folder("elsewhere") == tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FluxPipeline", "FluxPipeline is not supported: what is, is StableDiffusionPipeline, "),
        ("StableDiffusion3Pipeline", "StableDiffusion3Pipeline is not supported: what is, is Stable"),
        ("PixArtAlphaPipeline", "PixArtAlphaPipeline is not supported: what is, is Stable"),
        ("LDMPipeline", r"LDMPipeline is not supported \(its latents are a VQ autoencoder's\): what is"),
    ],
)
def test_a_pipeline_that_is_refused(tmp_path, name, said):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "vae": ["diffusers", "VQModel"]}))
    with pytest.raises(InputError, match=said) as caught:
        described(tmp_path)
    assert "\n" not in str(caught.value)


def test_stable_diffusion_is_described(tmp_path):
    scheduler = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "skip_prk_steps": True}
    found = described(pipeline(tmp_path, scheduler=scheduler, **STABLE))
    assert found.image == ((16, 16, 3), 256) and found.class_names is None and found.denoiser == tmp_path / "unet"
    config = found.config
    assert sorted(config) == [
        "autoencoder",
        "codec",
        "conditioner",
        "diffusion",
        "model",
        "objective",
        "sampling",
        "text",
    ]
    model = dict(config["model"])
    assert model.pop("name") == "conditional_unet" and not {"out_channels", "dtype", "reads_x_0", "reads_s"} & set(
        model
    )
    assert ConditionalUNet(**model) == small_networks.UNET
    assert config["diffusion"]["beta_schedule"] == "scaled_linear"
    said = {"sampler": "pndm", "guidance_scale": 7.5, "num_steps": 50, "clip_sample": False, "steps_offset": 1}
    assert {key: config["sampling"][key] for key in said} == said
    assert config["text"] == {
        "encoders": ["{workdir}/text_encoder"],
        "tokenizers": ["{workdir}/tokenizer"],
        "states": "last",
        "zero_null": False,
    }
    assert config["codec"] == "autoencoder" and config["autoencoder"] == {"path": "{workdir}/vae"}


@pytest.mark.parametrize("forces", [True, False, None])
def test_sdxl_is_described(tmp_path, forces):
    parts = STABLE | dict(unet=small_networks.unet_xl(), text_encoder_2=small_networks.clip_text(projection=6))
    index = {} if forces is None else {"force_zeros_for_empty_prompt": forces}
    config = described(pipeline(tmp_path, "StableDiffusionXLPipeline", index=index, **parts)).config
    assert config["model"]["pooled_channels"] == 6
    assert config["text"]["encoders"] == ["{workdir}/text_encoder", "{workdir}/text_encoder_2"]
    assert config["text"]["tokenizers"] == ["{workdir}/tokenizer", "{workdir}/tokenizer_2"]
    assert config["text"]["zero_null"] is (forces is not False)


def test_dit_is_described(tmp_path, caplog):
    names = {"1": "b, c", "0": "a", "2": "d"}
    parts = dict(transformer=small_networks.classes(), vae=small_networks.tiny_autoencoder())
    folder = pipeline(tmp_path, "DiTPipeline", index={"id2label": names}, **parts)
    found = described(folder)
    assert found.class_names == ("a", "b, c", "d") and found.image == ((8, 8, 3), 256)
    model = dict(found.config["model"])
    assert model.pop("name") == "dit" and DiT(out_channels=8, **model) == small_networks.CLASSES
    assert found.config["diffusion"]["variance_type"] == "learned_range"
    index = json.loads((folder / "model_index.json").read_text()) | {"id2label": {"0": "a"}}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert described(folder).class_names is None and "does not name the classes 0 to 2" in caplog.text


def test_pixels_are_described(tmp_path):
    found = described(
        pipeline(tmp_path, "DDPMPipeline", {"_class_name": "DDPMScheduler"}, unet=small_networks.pixels())
    )
    model = dict(found.config["model"])
    assert model.pop("name") == "unet" and UNet(**model) == small_networks.PIXELS
    assert found.image == ((8, 8, 3), 256) and found.config["codec"] == "identity"
    for section in ("model", "diffusion", "sampling"):
        values, known = found.config[section], Diffusion.sections[section]
        assert set(values) <= known.keys_for(section, values) | set(known.names)
    assert "num_steps" not in found.config["sampling"] and found.config["sampling"]["sampler"] == "ancestral"


def test_a_network_with_its_scheduler_alone(tmp_path):
    small_networks.write(tmp_path, small_networks.pixels())
    with pytest.raises(InputError, match="scheduler_config.json is not there: it says what"):
        described(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    found = described(tmp_path)
    assert found.denoiser == tmp_path and found.config["sampling"]["num_steps"] == 50


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("StableDiffusionInpaintPipeline", dict(unet=small_networks.inpainting_unet()), "is a model for inpainting"),
        (
            "StableDiffusionPipeline",
            dict(unet=small_networks.pixels()),
            "UNet2DModel is not supported in StableDiffusionPipel",
        ),
        (
            "StableDiffusionPipeline",
            dict(vae=small_networks.clip_text()),
            "a vae of the class CLIPTextModel with no latents",
        ),
        ("StableDiffusionXLPipeline", {}, "StableDiffusionXLPipeline with the parts .* is not supported: what is, is"),
        (
            "StableDiffusionPipeline",
            dict(scheduler={**DDIM, "trained_betas": [0.1]}),
            "scheduler_config.json: DDIMScheduler w",
        ),
        (
            "StableDiffusionPipeline",
            dict(scheduler={"_class_name": "DDPMScheduler", "variance_type": "learned_range"}),
            "variance_type='learned_range' needs a network of 8 out_channels",
        ),
    ],
)
def test_what_a_pipeline_has_that_is_refused(tmp_path, name, changes, said):
    pipeline(tmp_path, name, **STABLE | changes)
    with pytest.raises(InputError, match=said) as caught:
        described(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
