"""Folders of networks and pipelines, written and read by ours. Beside diffusers: test_folder_parity."""

import json
import logging
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert import autoencoder_kl, bert, clip, conditional_unet, ddpm, dit, files, safetensors_file, taesd
from marble.convert.folder import open_part, params_of_part, write_part
from marble.convert.kinds import KINDS, shapes_of
from marble.convert.pipeline_folder import described, read_index
from marble.errors import InputError
from marble.models import UNet
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.bert import Bert
from marble.models.clip import Clip, ClipText, ClipVision
from marble.models.conditional_unet import ConditionalUNet
from marble.models.dit import DiT
from marble.models.tiny_autoencoder import TinyAutoencoder
from marble.objectives.diffusion import Diffusion

LEVELS = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
WITH_TEXT = ConditionalUNet(**LEVELS, transformer_depth=(1, 0), num_heads=(2, 2), text_channels=12)
SDXL = WITH_TEXT.clone(pooled_channels=6)
INPAINTING = WITH_TEXT.clone(concat_channels=5)
PIXELS = UNet(**LEVELS, attention_resolutions=(4,), head_channels=4)
VAE = AutoencoderKL(**LEVELS)
SMALL_TEXT = dict(vocab_size=30, width=12, num_layers=1, num_heads=2, hidden=16, eos_token_id=29)
TEXT = ClipText(**SMALL_TEXT)
PROJECTED = ClipText(**SMALL_TEXT, projection=6)
VISION = ClipVision(image_size=8, patch_size=4, width=12, num_layers=1, num_heads=2, hidden=16, projection=6)
CLASSES = DiT(8, 2, 8, 2, 2, num_classes=3, grid_size=2, time_convention="mixed", perceptron_epsilon=1e-5)
NETWORKS = {
    "UNet2DConditionModel": (WITH_TEXT, conditional_unet.config_of(WITH_TEXT, sample_size=8)),
    "UNet2DConditionModel, SDXL": (SDXL, conditional_unet.config_of(SDXL, sample_size=8, linear=True)),
    "UNet2DConditionModel, inpainting": (INPAINTING, conditional_unet.config_of(INPAINTING, sample_size=8)),
    "UNet2DModel": (PIXELS, ddpm.config_of(PIXELS, sample_size=8, in_channels=3)),
    "DiTTransformer2DModel": (CLASSES, dit.config_of(CLASSES, in_channels=4, sample_size=4)),
    "AutoencoderKL": (VAE, autoencoder_kl.config_of(VAE, scale=0.5)),
    "AutoencoderTiny": (
        tiny := TinyAutoencoder(channels=8, num_blocks=(1, 1), decoder_num_blocks=(1, 1)),
        taesd.config_of(tiny),
    ),
    "CLIPTextModel": (TEXT, clip.config_of(TEXT)),
    "CLIPTextModelWithProjection": (PROJECTED, clip.config_of(PROJECTED)),
    "CLIPModel": (whole := Clip(PROJECTED, VISION), clip.config_of(whole)),
    "BertModel": (words := Bert(vocab_size=30, width=12, num_layers=1, num_heads=2, hidden=16), bert.config_of(words)),
}


def random_params(model, config, kind, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: draw.standard_normal(s.shape).astype(np.float32), shapes_of(model, config, kind))


def written(folder, name, **options):
    (model, config), kind = NETWORKS[name], name.partition(",")[0]
    params = random_params(model, config, kind)
    write_part(folder, config, KINDS[kind].table(model, config), params, **options)
    return params


def pipeline(folder, name="StableDiffusionPipeline", scheduler=None, index=None, **parts):
    """A pipeline's folder without weights; parts are networks by NETWORKS."""
    for part, network in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(NETWORKS[network][1]))
    classes = {part: ["diffusers", network.partition(",")[0]] for part, network in parts.items()}
    scheduler = {"_class_name": "DDIMScheduler"} | (scheduler or {})
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    classes["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name, **classes, **(index or {})}))
    return folder


STABLE = dict(unet="UNet2DConditionModel", vae="AutoencoderKL", text_encoder="CLIPTextModel")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_there_and_back(tmp_path, name):
    params = written(tmp_path, name)
    part = open_part(tmp_path)
    model = NETWORKS[name][0]
    assert part.model == model and part.kind == name.partition(",")[0]
    found = params_of_part(part)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and (a == b).all(), found, params))
    assert jax.tree.leaves(params_of_part(part, jnp.bfloat16))[0].dtype == jnp.bfloat16
    assert open_part(tmp_path, dtype=jnp.bfloat16).model.dtype == jnp.bfloat16 if name != "CLIPModel" else True


def test_a_part_is_written_a_tensor_at_a_time(tmp_path):
    model = TEXT.clone(vocab_size=60000, width=64, num_layers=12, num_heads=1, hidden=4096)
    config = clip.config_of(model)
    params = random_params(model, config, "CLIPTextModel")
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
    with pytest.raises(InputError, match=r"model.safetensors does not fit its config: .* is \[30, 12\] and must be"):
        params_of_part(open_part(tmp_path))


def test_a_folder_that_can_t_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be made"):
        written(tmp_path / "file", "CLIPTextModel")


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
    assert found.folder("unet") == tmp_path / "unet" and found.folder("elsewhere") == tmp_path


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
    assert model.pop("name") == "conditional_unet" and not {"out_channels", "dtype", "reads_x_0"} & set(model)
    assert ConditionalUNet(**model) == WITH_TEXT
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
    parts = STABLE | dict(unet="UNet2DConditionModel, SDXL", text_encoder_2="CLIPTextModelWithProjection")
    index = {} if forces is None else {"force_zeros_for_empty_prompt": forces}
    config = described(pipeline(tmp_path, "StableDiffusionXLPipeline", index=index, **parts)).config
    assert config["model"]["pooled_channels"] == 6
    assert config["text"]["encoders"] == ["{workdir}/text_encoder", "{workdir}/text_encoder_2"]
    assert config["text"]["tokenizers"] == ["{workdir}/tokenizer", "{workdir}/tokenizer_2"]
    assert config["text"]["zero_null"] is (forces is not False)


def test_dit_is_described(tmp_path, caplog):
    names = {"1": "b, c", "0": "a", "2": "d"}
    parts = dict(transformer="DiTTransformer2DModel", vae="AutoencoderTiny")
    folder = pipeline(tmp_path, "DiTPipeline", index={"id2label": names}, **parts)
    found = described(folder)
    assert found.class_names == ("a", "b, c", "d") and found.image == ((8, 8, 3), 256)
    model = dict(found.config["model"])
    assert model.pop("name") == "dit" and DiT(out_channels=8, **model) == CLASSES
    assert found.config["diffusion"]["variance_type"] == "learned_range"
    index = json.loads((folder / "model_index.json").read_text()) | {"id2label": {"0": "a"}}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert described(folder).class_names is None and "does not name the classes 0 to 2" in caplog.text


def test_pixels_are_described(tmp_path):
    found = described(pipeline(tmp_path, "DDPMPipeline", {"_class_name": "DDPMScheduler"}, unet="UNet2DModel"))
    model = dict(found.config["model"])
    assert model.pop("name") == "unet" and UNet(**model) == PIXELS
    assert found.image == ((8, 8, 3), 256) and found.config["codec"] == "identity"
    for section in ("model", "diffusion", "sampling"):
        values, known = found.config[section], Diffusion.sections[section]
        assert set(values) <= known.keys_for(section, values) | set(known.names)
    assert "num_steps" not in found.config["sampling"] and found.config["sampling"]["sampler"] == "ancestral"


def test_a_network_with_its_scheduler_alone(tmp_path):
    written(tmp_path, "UNet2DModel")
    with pytest.raises(InputError, match="scheduler_config.json is not there: it says what"):
        described(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    found = described(tmp_path)
    assert found.denoiser == tmp_path and found.config["sampling"]["num_steps"] == 50


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("StableDiffusionInpaintPipeline", dict(unet="UNet2DConditionModel, inpainting"), "is a model for inpainting"),
        ("StableDiffusionPipeline", dict(unet="UNet2DModel"), "UNet2DModel is not supported in StableDiffusionPipel"),
        ("StableDiffusionPipeline", dict(vae="CLIPTextModel"), "a vae of the class CLIPTextModel with no latents"),
        ("StableDiffusionXLPipeline", {}, "StableDiffusionXLPipeline with the parts .* is not supported: what is, is"),
        ("StableDiffusionPipeline", dict(scheduler={"trained_betas": [0.1]}), "scheduler_config.json: DDIMScheduler w"),
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
