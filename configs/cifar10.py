"""CIFAR-10, unconditional: the DDPM paper's recipe to the letter, 35,746,307 parameters.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, appendix B, L_simple
Data       marble data prepare cifar10
Command    marble train --config configs/cifar10.py --workdir runs/cifar10
Hardware   the paper: a TPU v3-8, 21 steps a second, 10.6 hours
Expected   the paper: FID 3.17, Inception score 9.46, at most 3.75 bits a dimension after 800,000 steps
Variants   :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import smoke, unknown_variant


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"name": "cifar10", "flip": True})
    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": 128,
            "channel_mult": (1, 2, 2, 2),
            "num_res_blocks": 2,
            "attention_resolutions": (16,),
            "num_heads": 1,
            "num_groups": 32,
            "dropout": 0.1,
        }
    )
    config.diffusion = ConfigDict(
        {
            "beta_schedule": "linear",
            "num_train_timesteps": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "weighting": "simple",
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "adam",
            "learning_rate": 2e-4,
            "warmup_steps": 5000,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "clip_norm": 1.0,
        }
    )
    config.training = ConfigDict(
        {
            "batch_size": 128,
            "num_steps": 800_000,
            "ema_decay": 0.9999,
            "log_every": 100,
            "eval_every": 10_000,
            "sample_every": 10_000,
            "checkpoint_every": 5000,
        }
    )
    config.sampling = ConfigDict(
        {"sampler": "ancestral", "variance_type": "fixed_large", "clip_sample": True, "batch_size": 64}
    )
    match variant:
        case None:
            return config
        case "smoke":
            return smoke(config)
    raise unknown_variant(variant, "smoke")
