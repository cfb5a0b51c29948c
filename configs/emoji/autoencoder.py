"""Emoji, part 1 of 4: the autoencoder, by which images become latents of an eighth of their sides, and back.

Paper      Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752
Command    marble train --config configs/emoji/autoencoder.py --workdir runs/emoji/autoencoder --config.data.source=DIR
Hardware   one GPU, and the extra [features], a network that the loss asks; :tiny 2 CPU cores, without it
Expected   WORKDIR/vae, which configs/emoji/latent.py reads; :tiny held-out images at 22 dB or more
           (docs/text_to_image.md)
Variants   :tiny is 64x64 without a perceptual network and a discriminator, and so is :quick, meant for minutes on a GPU
           and not run there yet; :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import unknown_variant
from marble.configs.emoji import data, training


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    if variant not in (None, "quick", "tiny", "smoke"):
        raise unknown_variant(variant, "quick", "tiny", "smoke")
    config = ConfigDict({"seed": 0, "data": data(variant)})
    config.model = ConfigDict(
        {
            "name": "autoencoder_kl",
            "latent_channels": 16,
            "channels": 64,
            "channel_mult": (1, 2, 4, 4),
            "num_res_blocks": 2,
            "num_groups": 32,
        }
    )
    config.reconstruction = ConfigDict({"pixels": "l1", "kl_weight": 1e-6, "perceptual_weight": 1.0})
    config.discriminator = ConfigDict({"weight": 0.5, "start_step": 10_000})
    config.optimizer = ConfigDict(
        {"name": "adam", "learning_rate": 2e-4, "b1": 0.5, "b2": 0.9, "warmup_steps": 500, "clip_norm": 1.0}
    )
    config.training = training(variant, batch_size=32, num_steps=30_000, ema_decay=0.999, every=2500)
    if variant is not None:
        config.reconstruction.perceptual_weight = 0.0
        config.discriminator = ConfigDict({"weight": 0.0})
        config.optimizer.update({"learning_rate": 1e-3, "b1": 0.9, "b2": 0.99, "warmup_steps": 50})
    if variant in ("tiny", "smoke"):
        config.model.update({"channels": 16, "num_res_blocks": 1, "num_groups": 8})
    if variant == "smoke":
        config.model.update({"channel_mult": (1, 2), "latent_channels": 4})
    if variant == "quick":
        config.model.update({"channels": 32, "num_res_blocks": 1})
        config.training = training(variant, batch_size=64, num_steps=2000, ema_decay=0.99, every=1000)
        config.optimizer.decay_steps = 2000
    if variant == "tiny":
        config.training = training(variant, batch_size=16, num_steps=750, ema_decay=0.99, every=250)
        config.optimizer.update({"warmup_steps": 50, "decay_steps": 750})
    return config
