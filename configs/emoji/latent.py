"""Emoji, part 3 of 4: the diffusion model, in the autoencoder's latents, told of texts by CLIP.

Paper      Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752
Command    marble train --config configs/emoji/latent.py --workdir runs/emoji/latent --config.data.source=DIR
           It reads runs/emoji/autoencoder/vae and runs/emoji/clip/clip; --config.autoencoder.path,
           --config.text.encoders and --config.text.tokenizers name others, such as TAESD and MiniLM
Hardware   one GPU; :tiny 2 CPU cores
Expected   pictures of the prompts in WORKDIR/samples (docs/text_to_image.md)
Variants   :tiny is 64x64, and so is :quick, meant for minutes on a GPU and not run there yet; :smoke is two steps of a
           tiny model. Each needs parts of its own variant
"""

from ml_collections import ConfigDict

from marble.configs import unknown_variant
from marble.configs.emoji import PROMPTS, data, training


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    if variant not in (None, "quick", "tiny", "smoke"):
        raise unknown_variant(variant, "quick", "tiny", "smoke")
    config = ConfigDict({"seed": 0, "data": data(variant), "codec": "autoencoder", "conditioner": "text"})
    config.autoencoder = ConfigDict({"path": "runs/emoji/autoencoder/vae", "cache": "runs/emoji/latents"})
    folder = ("runs/emoji/clip/clip",)
    config.text = ConfigDict(
        {"encoders": folder, "tokenizers": folder, "captions": True, "text_dropout": 0.1, "prompts": PROMPTS}
    )
    config.model = ConfigDict(
        {
            "name": "conditional_unet",
            "channels": 128,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 2,
            "transformer_depth": (1, 1, 1),
            "num_heads": (4, 8, 16),
            "num_groups": 32,
            "text_channels": 256,
        }
    )
    config.diffusion = ConfigDict(
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000, "prediction_type": "v"}
    )
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 2e-4, "warmup_steps": 500, "clip_norm": 1.0})
    config.training = training(variant, batch_size=128, num_steps=40_000, ema_decay=0.999, every=2500)
    # Trailing, by which diffusers' DDIM makes the same steps: it goes down by T // N whatever its grid is.
    config.sampling = ConfigDict({"sampler": "ddim", "timestep_spacing": "trailing", "num_steps": 50})
    config.sampling.update({"guidance_scale": 3.0, "batch_size": 64})
    if variant == "quick":
        config.model.update({"text_channels": 96, "channel_mult": (1, 2), "transformer_depth": (1, 1)})
        config.model.num_heads = (4, 8)
        config.optimizer.update({"learning_rate": 5e-4, "warmup_steps": 200, "decay_steps": 8000})
        config.training = training(variant, batch_size=128, num_steps=8000, ema_decay=0.999, every=4000)
    if variant in ("tiny", "smoke"):
        config.model.update(
            {
                **{"channels": 64, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 16, "text_channels": 96},
                **{"transformer_depth": (1, 1), "num_heads": (2, 4)},
            }
        )
    if variant == "tiny":
        config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay_steps": 2100})
        config.training = training(variant, batch_size=32, num_steps=2100, ema_decay=0.99, every=700)
        config.sampling.num_steps = 25
    if variant == "smoke":
        config.model.update({"channels": 32, "num_groups": 8})
        config.sampling.update({"num_steps": 2, "batch_size": 8})
    return config
