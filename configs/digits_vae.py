"""Handwritten digits of 8x8 pixels by a variational autoencoder: what diffusion is compared with.

Paper      Kingma, Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114; the decoder's discretised logistic
           from Salimans et al. 2017, PixelCNN++, arXiv:1701.05517
Command    marble train --config configs/digits_vae.py --workdir runs/digits_vae
Hardware   2 CPU cores; 7 min while other programs kept both busy
Expected   held-out digits in at most 1.83 bits/dim by the ELBO, 1.75 by 1000 importance-weighted samples; blurred
           digits, which a nearest neighbour tells from training digits with accuracy 0.67, 0.5 being chance
           (pytest -m slow tests/test_digits_vae.py -rP); 166,210 parameters
Variants   :gaussian has a Gaussian decoder; :smoke is two steps of a tiny model
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
            "name": "vae",
            "latent_size": 16,
            "channels": 24,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "num_groups": 8,
            "dropout": 0.1,
        }
    )
    config.vae = ConfigDict({"likelihood": "discretised_logistic"})
    config.optimizer = ConfigDict(
        {"name": "adam", "learning_rate": 2e-3, "warmup_steps": 100, "decay_steps": 2400, "clip_norm": 1.0}
    )
    config.training = ConfigDict(
        {
            "batch_size": 64,
            "num_steps": 2400,
            "ema_decay": 0.995,
            "log_every": 100,
            "eval_every": 600,
            "sample_every": 0,
            "checkpoint_every": 600,
        }
    )
    config.sampling = ConfigDict({"pixels": "mean", "batch_size": 64})
    match variant:
        case None:
            return config
        case "gaussian":
            config.vae.likelihood = "gaussian"
            return config
        case "smoke":
            return smoke(config)
    raise unknown_variant(variant, "gaussian", "smoke")
