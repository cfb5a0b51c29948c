"""CIFAR-10, part 4 of 4 of text to image: the other decoder, from 16x16 pixels to 32x32.

Paper      Ho et al. 2022, Cascaded Diffusion Models for High Fidelity Image Generation, arXiv:2106.15282
Data       marble data prepare cifar10
Command    marble train --config configs/cifar10_text/upsampler.py --workdir runs/cifar10_text/upsampler
Hardware   one GPU; :tiny 2 CPU cores
Expected   images in WORKDIR/samples; beside interpolation it has not been measured yet
Variants   those of configs/emoji/upsampler.py
"""

from ml_collections import ConfigDict

from marble.configs.cifar10_text import on_cifar10
from marble.configs.emoji import upsampler


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = on_cifar10(upsampler.get_config(variant))
    config.model.patch_size = 1  # its images are small
    return config
