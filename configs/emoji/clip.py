"""Emoji, part 2 of 4: CLIP, which tells the next part of texts, and judges how well pictures fit theirs.

Paper      Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, arXiv:2103.00020
Command    marble train --config configs/emoji/clip.py --workdir runs/emoji/clip --config.data.source=DIR
Hardware   one GPU; :tiny 2 CPU cores
Expected   WORKDIR/clip, which configs/emoji/latent.py reads; :tiny finds the text of held-out images more than 10 times
           as often as by chance (docs/text_to_image.md)
Variants   :tiny is 64x64, and so is :quick, meant for minutes on a GPU and not run there yet; :smoke is two steps of a
           tiny model
"""

from ml_collections import ConfigDict

from marble.configs import unknown_variant
from marble.configs.emoji import data, training


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    if variant not in (None, "quick", "tiny", "smoke"):
        raise unknown_variant(variant, "quick", "tiny", "smoke")
    config = ConfigDict({"seed": 0, "data": data(variant), "model": {"name": "clip"}})
    config.clip = ConfigDict({"projection": 256, "loss": "softmax"})
    config.text_model = ConfigDict({"width": 256, "num_layers": 6, "num_heads": 4})
    config.image_model = ConfigDict({"width": 384, "num_layers": 6, "num_heads": 6, "patch_size": 16})
    config.tokenizer = ConfigDict({"vocab_size": 2000, "max_length": 24})
    config.optimizer = ConfigDict(
        {"name": "adam", "learning_rate": 5e-4, "b2": 0.98, "eps": 1e-6, "warmup_steps": 500, "decay_steps": 10_000}
    )
    config.training = training(variant, batch_size=512, num_steps=10_000, ema_decay=0.999, every=1000)
    if variant is not None:
        config.clip.projection = 64
        config.text_model = ConfigDict({"width": 96, "num_layers": 2, "num_heads": 4})
        config.image_model = ConfigDict({"width": 96, "num_layers": 2, "num_heads": 4, "patch_size": 8})
    if variant == "quick":
        config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 50, "decay_steps": 400})
        config.training = training(variant, batch_size=256, num_steps=400, ema_decay=0.99, every=200)
    if variant == "tiny":
        config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 50, "decay_steps": 400})
        config.training = training(variant, batch_size=128, num_steps=400, ema_decay=0.99, every=200)
    return config
