"""CelebA-HQ at 256x256, unconditional: the DDPM paper's recipe, 113,673,219 parameters.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, appendix B
Data       a folder of the 30,000 images, named with --config.data.source=DIR
Command    marble train --config configs/celebahq256.py --workdir runs/celebahq256 --config.data.source=DIR
Hardware   the paper: a TPU v3-8, 2.2 steps a second, 63 hours; on smaller machines set training.accumulate
Expected   the paper shows samples, no FID
Variants   :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import smoke, unknown_variant


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"name": "image_folder", "image_size": 256, "flip": True})
    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": 128,
            "channel_mult": (1, 1, 2, 2, 4, 4),
            "num_res_blocks": 2,
            "attention_resolutions": (16,),
            "num_heads": 1,
            "num_groups": 32,
            "dropout": 0.0,
        }
    )
    config.diffusion = ConfigDict(
        {"beta_schedule": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    )
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 2e-5, "warmup_steps": 5000, "clip_norm": 1.0})
    config.training = ConfigDict(
        {
            "batch_size": 64,
            "num_steps": 500_000,
            "ema_decay": 0.9999,
            "log_every": 100,
            "sample_every": 10_000,
            "checkpoint_every": 5000,
        }
    )
    config.sampling = ConfigDict(
        {"sampler": "ancestral", "variance_type": "fixed_small", "clip_sample": True, "batch_size": 16}
    )
    match variant:
        case None:
            return config
        case "smoke":
            config.data.image_size = 32
            return smoke(config)
    raise unknown_variant(variant, "smoke")
