"""Handwritten digits of 8x8 pixels, from scikit-learn: a DDPM that a laptop trains in minutes.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, at laptop size
Command    marble train --config configs/digits.py --workdir runs/digits
Hardware   2 CPU cores; 3 min 18 s, sampling included (bash launch/quickstart.sh)
Expected   digits that a person reads; a nearest neighbour tells 800 of them from 800 training digits with accuracy
           0.53, 0.5 being chance (pytest -m slow tests/test_digits.py -rP); 367,129 parameters
Variants   :conditional gives the model the digit's class; :flow is trained on the straight way from noise to data, by
           rectified flow, to be the teacher of marble distill; :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import smoke, unknown_variant


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"name": "digits"})
    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": 24,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (),
            "num_groups": 8,
            "dropout": 0.0,
        }
    )
    config.diffusion = ConfigDict(
        {"beta_schedule": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    )
    config.optimizer = ConfigDict(
        {"name": "adam", "learning_rate": 2e-3, "warmup_steps": 100, "decay_steps": 4800, "clip_norm": 1.0}
    )
    config.training = ConfigDict(
        {
            "batch_size": 64,
            "num_steps": 4800,
            "ema_decay": 0.995,
            "log_every": 100,
            "eval_every": 1200,
            "sample_every": 0,
            "checkpoint_every": 1200,
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
        case "flow":
            config.diffusion = ConfigDict({"beta_schedule": "rectified_flow", "prediction_type": "flow"})
            config.sampling = ConfigDict({"sampler": "heun", "num_steps": 50, "batch_size": 64})
            return config
        case "smoke":
            return smoke(config)
    raise unknown_variant(variant, "conditional", "flow", "smoke")
