"""Small published checkpoints with random weights, written by ours: folders of pipelines, and files of papers' code."""

import json

import jax
import numpy as np
import vocabularies

from marble.convert import autoencoder_kl, clip, conditional_unet, ddpm, dit, safetensors_file
from marble.convert.folder import write_part
from marble.convert.kinds import KINDS, shapes_of
from marble.convert.names import tensors_of
from marble.models import UNet
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.clip import ClipText
from marble.models.conditional_unet import ConditionalUNet
from marble.models.dit import DiT

LEVELS = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
VAE = AutoencoderKL(**LEVELS)
WORDS = len(vocabularies.clip_bpe()[0])
SMALL_TEXT = dict(vocab_size=WORDS, width=12, num_layers=2, num_heads=2, hidden=16, eos_token_id=WORDS - 1)
TEXT, SECOND_TEXT = ClipText(**SMALL_TEXT), ClipText(**SMALL_TEXT, projection=6)
WITH_TEXT = ConditionalUNet(**LEVELS, transformer_depth=(1, 0), num_heads=(2, 2), text_channels=12)
SDXL = WITH_TEXT.clone(text_channels=24, pooled_channels=6)
PIXELS = UNet(**LEVELS, attention_resolutions=(4,), head_channels=4)
CLASSES = DiT(8, 2, 8, 2, 2, num_classes=3, grid_size=2, time_convention="mixed", perceptron_epsilon=1e-5)

SCHEDULE = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
DDIM = dict(_class_name="DDIMScheduler", clip_sample=False, set_alpha_to_one=True, steps_offset=1, **SCHEDULE)


def random_params(model, config, kind, seed=0):
    draw = np.random.default_rng(seed)
    shapes = shapes_of(model, config, kind)
    return jax.tree.map(lambda s: (0.1 * draw.standard_normal(s.shape)).astype(np.float32), shapes)


def write_network(folder, kind, config, seed, dtype=None):
    model = KINDS[kind].model(config)
    table = KINDS[kind].table(model, config)
    write_part(folder, config, table, random_params(model, config, kind, seed), dtype=dtype)


def write_pipeline(folder, name, networks, scheduler, *, tokenizers=(), dtype=None, **index):
    """model_index.json and its parts; networks is {folder: (class, config)}."""
    classes = {part: ["diffusers", kind] for part, (kind, _) in networks.items()}
    classes |= {part: ["transformers", "CLIPTokenizer"] for part in tokenizers}
    write_json(folder / "model_index.json", {"_class_name": name, "scheduler": ["diffusers", "S"], **classes, **index})
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    for seed, (part, (kind, config)) in enumerate(networks.items()):
        write_network(folder / part, kind, config, seed, dtype)
    for part in tokenizers:
        vocabularies.write_clip(folder / part, **vocabularies.of_stable_diffusion(1))
    return folder


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def stable_diffusion(folder, dtype=None):
    networks = {
        "unet": (conditional_unet.NAME, conditional_unet.config_of(WITH_TEXT, sample_size=4)),
        "vae": (autoencoder_kl.NAME, autoencoder_kl.config_of(VAE, scale=0.5)),
        "text_encoder": ("CLIPTextModel", clip.config_of(TEXT)),
    }
    return write_pipeline(folder, "StableDiffusionPipeline", networks, DDIM, tokenizers=["tokenizer"], dtype=dtype)


def stable_diffusion_xl(folder, dtype=None):
    networks = {
        "unet": (conditional_unet.NAME, conditional_unet.config_of(SDXL, sample_size=4, linear=True)),
        "vae": (autoencoder_kl.NAME, autoencoder_kl.config_of(VAE, scale=0.5)),
        "text_encoder": ("CLIPTextModel", clip.config_of(TEXT)),
        "text_encoder_2": ("CLIPTextModelWithProjection", clip.config_of(SECOND_TEXT)),
    }
    scheduler = dict(_class_name="EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1, **SCHEDULE)
    tokenizers = ["tokenizer", "tokenizer_2"]
    return write_pipeline(folder, "StableDiffusionXLPipeline", networks, scheduler, tokenizers=tokenizers, dtype=dtype)


def classes(folder, dtype=None):
    networks = {
        "transformer": (dit.NAME, dit.config_of(CLASSES, in_channels=4, sample_size=4)),
        "vae": (autoencoder_kl.NAME, autoencoder_kl.config_of(VAE, scale=0.5)),
    }
    names = {str(i): word for i, word in enumerate(["cat", "dog", "fox"])}
    return write_pipeline(folder, "DiTPipeline", networks, DDIM, dtype=dtype, id2label=names)


def pixels(folder, dtype=None):
    networks = {"unet": (ddpm.NAME, ddpm.config_of(PIXELS, sample_size=8, in_channels=3))}
    scheduler = dict(_class_name="DDPMScheduler", num_train_timesteps=20, beta_end=0.4, clip_sample=True)
    return write_pipeline(folder, "DDPMPipeline", networks, scheduler, dtype=dtype)


def write_file(path, arrays):
    """One file of weights."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors_file.write(path, arrays.items(), {name: (a.shape, a.dtype) for name, a in arrays.items()})
    return path


def write_table(path, table, shapes, seed=0, prefix=""):
    """A file by the names of a table; its random parameters."""
    draw = np.random.default_rng(seed)
    params = jax.tree.map(lambda s: (0.1 * draw.standard_normal(s.shape)).astype(np.float32), shapes)
    write_file(path, {prefix + name: array for name, array in tensors_of(table, params)})
    return params
