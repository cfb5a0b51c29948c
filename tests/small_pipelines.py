"""Small pipelines in folders as diffusers has them, with random weights, written by marble: no PyTorch is needed."""

import dataclasses
import json

import small_networks

from marble.loading import load_params
from marble.parallel import ParallelConfig

SCHEDULE = dict(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
DDIM = dict(_class_name="DDIMScheduler", clip_sample=False, set_alpha_to_one=False, steps_offset=1, **SCHEDULE)
EULER = dict(_class_name="EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1, **SCHEDULE)
DDPM = dict(_class_name="DDPMScheduler", num_train_timesteps=20, beta_end=0.4, clip_sample=True)


def stable_diffusion(folder, *, vae=None, scheduler=DDIM, dtype=None):
    """Of images of 16 x 16."""
    networks = {
        "unet": small_networks.unet(),
        "vae": vae or small_networks.autoencoder(),
        "text_encoder": small_networks.clip_text(),
    }
    return write(folder, "StableDiffusionPipeline", networks, scheduler, tokenizers=["tokenizer"], dtype=dtype)


def stable_diffusion_xl(folder):
    """Of images of 16 x 16."""
    networks = {
        "unet": small_networks.unet_xl(),
        "vae": small_networks.autoencoder(),
        "text_encoder": small_networks.clip_text(),
        "text_encoder_2": small_networks.clip_text(projection=6),
    }
    return write(folder, "StableDiffusionXLPipeline", networks, EULER, tokenizers=["tokenizer", "tokenizer_2"])


def classes(folder):
    """A DiT of three classes, of images of 8 x 8."""
    networks = {"transformer": small_networks.classes(), "vae": small_networks.autoencoder()}
    return write(folder, "DiTPipeline", networks, DDIM, id2label={"0": "cat", "1": "dog", "2": "fox"})


def pixels(folder):
    """Of images of 8 x 8."""
    return write(folder, "DDPMPipeline", {"unet": small_networks.pixels()}, DDPM)


def write(folder, name, networks, scheduler, *, tokenizers=(), dtype=None, **index):
    """The folder of a pipeline of that class: its networks by their parts, and what else its index says."""
    classes = {part: ["transformers", "CLIPTokenizer"] for part in tokenizers}
    write_index(folder, name, networks, scheduler, **classes, **index)
    for seed, (part, network) in enumerate(networks.items()):
        small_networks.write(folder / part, network, seed=seed, dtype=dtype)
    for part in tokenizers:
        small_networks.write_tokenizer(folder / part)
    return folder


def write_index(folder, name, networks, scheduler, **index):
    """What a pipeline's folder says of its parts, and its scheduler."""
    parts = {part: ["diffusers", network.kind] for part, network in networks.items()}
    parts["scheduler"] = ["diffusers", scheduler["_class_name"]]
    write_json(folder / "model_index.json", {"_class_name": name, **parts, **index})
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def opened(folder, *, mapping=None, batch_size=8, **options):
    """The pipeline of a folder, with few images in a call."""
    _, experiment, params = load_params(str(folder), **options)
    objective = experiment.objective
    objective = dataclasses.replace(objective, sampling=dataclasses.replace(objective.sampling, batch_size=batch_size))
    return objective.pipeline(params, mapping=mapping or ParallelConfig().open())
