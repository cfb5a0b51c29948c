"""CIFAR-10 told of texts, part 3 of 4: the diffusion model, in the autoencoder's latents, told of texts by CLIP.

Paper      Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752
Data       marble data prepare cifar10
Command    marble train --config configs/cifar10_text/latent.py --workdir runs/cifar10_text/latent
           It reads runs/cifar10_text/autoencoder/vae and runs/cifar10_text/clip/clip
Hardware   one GPU; :tiny 2 CPU cores
Expected   pictures of the ten classes in WORKDIR/samples; not trained in full yet
Variants   those of configs/emoji/latent.py
"""

from ml_collections import ConfigDict

from marble.configs.cifar10_text import FOLDER, PROMPTS, TEMPLATE, on_cifar10
from marble.configs.emoji import latent


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = on_cifar10(latent.get_config(variant))
    config.autoencoder.update({"path": f"{FOLDER}/autoencoder/vae", "cache": f"{FOLDER}/latents"})
    folder = (f"{FOLDER}/clip/clip",)
    config.text.update({"encoders": folder, "tokenizers": folder, "captions": False, "template": TEMPLATE})
    config.text.prompts = PROMPTS
    return config
