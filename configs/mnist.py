"""MNIST: handwritten digits of 28x28 pixels, with a DDPM of 6,801,409 parameters.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, at a smaller size
Data       marble data prepare mnist
Command    marble train --config configs/mnist.py --workdir runs/mnist
Hardware   one GPU
Expected   no published figure for this size
Variants   :conditional gives the model the digit's class; :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import smoke, unknown_variant


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"name": "mnist"})
    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": 64,
            "channel_mult": (1, 2, 2),
            "num_res_blocks": 2,
            "attention_resolutions": (14, 7),
            "dropout": 0.1,
        }
    )
    config.diffusion = ConfigDict(
        {"beta_schedule": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    )
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 2e-4, "warmup_steps": 1000, "clip_norm": 1.0})
    config.training = ConfigDict(
        {
            "batch_size": 128,
            "num_steps": 50_000,
            "ema_decay": 0.999,
            "log_every": 100,
            "eval_every": 5000,
            "sample_every": 5000,
            "checkpoint_every": 5000,
        }
    )
    config.sampling = ConfigDict({"sampler": "ancestral", "variance_type": "fixed_large", "batch_size": 64})
    match variant:
        case None:
            return config
        case "conditional":
            config.model.num_classes = 10
            config.training.label_dropout = 0.1
            return config
        case "smoke":
            return smoke(config)
    raise unknown_variant(variant, "conditional", "smoke")
