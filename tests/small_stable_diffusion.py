"""Small networks in folders as diffusers has them, with random weights, written by marble: no PyTorch is needed."""

import dataclasses
import json

import jax
import numpy as np
import vocabularies

from marble.convert import autoencoder_kl, bert, clip, conditional_unet, dit, taesd
from marble.convert.folder import write_part
from marble.convert.kinds import KINDS, shapes_of
from marble.loading import load_params
from marble.models import DiT
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.bert import Bert
from marble.models.clip import ClipText
from marble.models.conditional_unet import ConditionalUNet
from marble.models.tiny_autoencoder import TinyAutoencoder
from marble.parallel import ParallelConfig

WORDS = 12
"""Tokens of a prompt, with its start and end."""
SIDE = 8
"""Of the latents; images are of 2 * SIDE."""
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
UNET = ConditionalUNet(
    out_channels=4,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    transformer_depth=(0, 1),
    num_heads=(2, 2),
    text_channels=12,
    num_groups=4,
)


def random_like(shapes, seed=0):
    """Random parameters that keep numbers at about their size, with nothing at zero; made on the host."""
    rng = np.random.default_rng(seed)

    def made(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return noise / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return noise * np.float32(0.1) + np.float32(path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(made, shapes)


def write(folder, model, config, seed=0):
    kind = config.get("_class_name") or config["architectures"][0]
    write_part(folder, config, KINDS[kind].table(model, config), random_like(shapes_of(model, config, kind), seed))
    return str(folder)


def autoencoder(folder, *, image_channels=3, latent_channels=4, scale=0.5):
    model = AutoencoderKL(image_channels, latent_channels, 8, (1, 1), 1, num_groups=4)
    return write(folder, model, autoencoder_kl.config_of(model, scale=scale))


def tiny_autoencoder(folder, *, image_channels=3):
    model = TinyAutoencoder(image_channels, 4, 8, (1, 1), (1, 1))
    return write(folder, model, taesd.config_of(model))


def clip_text(folder, *, width=12, projection=None, seed=0):
    """Of the vocabulary that ``tokenizer`` writes; what a text says is told apart well."""
    vocab, _ = vocabularies.clip_bpe()
    end = vocab[vocabularies.END]
    sizes = dict(width=width, num_layers=2, num_heads=2, hidden=16, projection=projection)
    model = ClipText(vocab_size=len(vocab), max_length=WORDS, eos_token_id=end, **sizes)
    return write(folder, model, clip.config_of(model), seed)


def bert_text(folder, *, width=12):
    sizes = dict(width=width, num_layers=2, num_heads=2, hidden=16)
    model = Bert(vocab_size=len(vocabularies.bert_vocab()), max_length=WORDS, **sizes)
    return write(folder, model, bert.config_of(model))


def tokenizer(folder):
    return str(vocabularies.write_clip(folder, **vocabularies.of_stable_diffusion(1)))


def bert_tokenizer(folder):
    return str(vocabularies.write_bert(folder))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def index(folder, name, parts):
    """The model_index.json of a pipeline of these parts, each with its class."""
    write_json(folder / "model_index.json", {"_class_name": name, **{k: ["diffusers", v] for k, v in parts.items()}})
    return str(folder)


def stable_diffusion(folder, *, vae=autoencoder, scheduler=SCHEDULER):
    """The folder of a whole pipeline, of images of 16 x 16."""
    config = conditional_unet.config_of(UNET, sample_size=SIDE)
    write(folder / "unet", UNET, config)
    vae(folder / "vae")
    clip_text(folder / "text_encoder")
    tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    parts = {"unet": "UNet2DConditionModel", "scheduler": scheduler["_class_name"], "tokenizer": "CLIPTokenizer"}
    return index(folder, "StableDiffusionPipeline", {**parts, "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"})


def classes(folder, *, num_classes=3):
    """The folder of a DiT, of images of 8 x 8."""
    like_theirs = dict(time_convention="mixed", perceptron_epsilon=1e-5)
    model = DiT(out_channels=8, width=16, num_layers=2, num_heads=2, num_classes=num_classes, **like_theirs)
    config = dit.config_of(model, in_channels=4, sample_size=4)
    write(folder / "transformer", model, config)
    autoencoder(folder / "vae")
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    parts = {"transformer": "DiTTransformer2DModel", "scheduler": "DDIMScheduler", "vae": "AutoencoderKL"}
    return index(folder, "DiTPipeline", parts)


def opened(folder, *, mapping=None, batch_size=8, **options):
    """The pipeline of a folder, with few images in a call."""
    _, experiment, params = load_params(folder, **options)
    objective = experiment.objective
    objective = dataclasses.replace(objective, sampling=dataclasses.replace(objective.sampling, batch_size=batch_size))
    return objective.pipeline(params, mapping=mapping or ParallelConfig().open())
