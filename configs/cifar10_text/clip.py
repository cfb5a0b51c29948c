"""CIFAR-10 told of texts, part 2 of 4: CLIP, which tells the next part of texts, and judges how well pictures fit.

Paper      Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, arXiv:2103.00020
Data       marble data prepare cifar10
Command    marble train --config configs/cifar10_text/clip.py --workdir runs/cifar10_text/clip
Hardware   one GPU; :tiny 2 CPU cores
Expected   WORKDIR/clip, which configs/cifar10_text/latent.py reads; not trained in full yet
Variants   those of configs/emoji/clip.py
"""

from ml_collections import ConfigDict

from marble.configs.cifar10_text import TEMPLATE, on_cifar10
from marble.configs.emoji import clip


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = on_cifar10(clip.get_config(variant))
    config.clip.update({"captions": False, "template": TEMPLATE})
    config.image_model.patch_size = 4
    return config
