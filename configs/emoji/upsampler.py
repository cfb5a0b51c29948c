"""Emoji, part 4 of 4: the other decoder, which makes small images four times as large in each direction.

Paper      Ho et al. 2022, Cascaded Diffusion Models for High Fidelity Image Generation, arXiv:2106.15282
Command    marble train --config configs/emoji/upsampler.py --workdir runs/emoji/upsampler --config.data.source=DIR
Hardware   one GPU; :tiny 2 CPU cores
Expected   sharper than interpolation: benchmarks/text_to_image.py prints both's PSNR and distance of features
Variants   :tiny makes 64x64 of 16x16; :regression, and :tiny_regression, answer in one step and draw nothing; :smoke
           is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import unknown_variant
from marble.configs.emoji import data, training


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    if variant not in (None, "tiny", "regression", "tiny_regression", "smoke"):
        raise unknown_variant(variant, "tiny", "regression", "tiny_regression", "smoke")
    size = {"tiny_regression": "tiny", "regression": None}.get(variant, variant)
    config = ConfigDict({"seed": 0, "data": data(size)})
    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": 64,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 2,
            "attention_resolutions": (),
            "num_groups": 32,
            "dropout": 0.0,
        }
    )
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 2e-4, "warmup_steps": 500, "clip_norm": 1.0})
    config.training = training(size, batch_size=64, num_steps=30_000, ema_decay=0.999, every=2500)
    if size is not None:
        config.model.update({"channels": 16, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 8})
    if size == "tiny":
        config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 50, "decay_steps": 400})
        config.training = training(size, batch_size=8, num_steps=400, ema_decay=0.99, every=200)
    if variant in ("regression", "tiny_regression"):
        config.objective = "upsampler"
        config.upsampler = ConfigDict({"factor": 4, "pixels": "l1"})
        return config
    config.model.reads_low_res = True
    config.conditioner = "low_res"
    config.low_res = ConfigDict({"factor": 4, "max_aug_level": 0.3, "aug_level": 0.1})
    config.diffusion = ConfigDict(
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000, "prediction_type": "v"}
    )
    config.sampling = ConfigDict({"sampler": "ddim", "num_steps": 50, "batch_size": 64})
    if size is not None:
        config.sampling.num_steps = 25 if size == "tiny" else 2
    return config
