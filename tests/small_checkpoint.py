"""A small text-to-image checkpoint, as diffusers has them, written by marble alone; with a tokenizer of a few words."""

import json

import jax
import numpy as np
import vocabularies

from marble.convert import autoencoder_kl, clip, conditional_unet
from marble.convert.folder import write_part
from marble.convert.kinds import KINDS, shapes_of
from marble.models import AutoencoderKL, ClipText, ConditionalUNet

LEVELS = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
WITH_TEXT = dict(transformer_depth=(1, 0), num_heads=(2, 2), text_channels=12)
UNET = ConditionalUNet(**LEVELS, **WITH_TEXT)
VAE = AutoencoderKL(**LEVELS)
WORDS = len(vocabularies.clip_bpe()[0])
TEXT = ClipText(vocab_size=WORDS, max_length=12, width=12, num_layers=1, num_heads=2, hidden=16, eos_token_id=WORDS - 1)
PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel", UNET, conditional_unet.config_of(UNET, sample_size=8)),
    "vae": ("diffusers", "AutoencoderKL", VAE, autoencoder_kl.config_of(VAE, scale=0.5)),
    "text_encoder": ("transformers", "CLIPTextModel", TEXT, clip.config_of(TEXT)),
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def write(folder):
    """Stable Diffusion of images of 16 x 16; the folder."""
    draw, index = np.random.default_rng(0), {"_class_name": "StableDiffusionPipeline"}
    for name, (library, kind, model, config) in PARTS.items():
        shapes = shapes_of(model, config, kind)
        params = jax.tree.map(lambda s: 0.1 * draw.standard_normal(s.shape).astype(np.float32), shapes)
        write_part(folder / name, config, KINDS[kind].table(model, config), params)
        index[name] = [library, kind]
    vocabularies.write_clip(folder / "tokenizer", **vocabularies.of_stable_diffusion(1))
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", SCHEDULER["_class_name"]]}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
