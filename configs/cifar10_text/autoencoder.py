"""CIFAR-10 told of texts, part 1 of 4: the autoencoder, to latents of a quarter of the images' sides, and back.

Paper      Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752
Data       marble data prepare cifar10
Command    marble train --config configs/cifar10_text/autoencoder.py --workdir runs/cifar10_text/autoencoder
Hardware   one GPU, and the extra [features], a network that the loss asks; :tiny 2 CPU cores, without it
Expected   WORKDIR/vae, which configs/cifar10_text/latent.py reads; not trained in full yet
Variants   those of configs/emoji/autoencoder.py
"""

from ml_collections import ConfigDict

from marble.configs.cifar10_text import on_cifar10
from marble.configs.emoji import autoencoder


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = on_cifar10(autoencoder.get_config(variant))
    config.model.channel_mult = (1, 2, 4)  # an eighth of 32 pixels would leave 4
    return config
