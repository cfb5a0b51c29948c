"""The experiments that come with marble, one a file."""

from ml_collections import ConfigDict


def smoke(config: ConfigDict) -> ConfigDict:
    """The same experiment shrunk to two steps of a tiny model, to see that all parts fit."""
    if "num_train_timesteps" in config.get("diffusion", {}):
        config.diffusion.num_train_timesteps = 10
        if config.diffusion.get("beta_schedule", "linear") == "linear":  # so few of the published betas leave the image
            config.diffusion.update({"beta_end": 0.95})
    levels = tuple(config.model.get("channel_mult", ()))[:2]
    config.model.update({"channels": 8, "num_groups": 4, "num_res_blocks": 1, "channel_mult": levels})
    config.training.update({"batch_size": 8, "num_steps": 2, "log_every": 1, "checkpoint_every": 2})
    config.training.update({"eval_every": 2 if config.training.get("eval_every") else 0, "sample_every": 2})
    config.sampling.batch_size = 8
    return config


def unknown_variant(variant: str, *known: str) -> ValueError:
    """The error for a variant that a config does not have."""
    return ValueError(f"no variant {variant!r}; there are: {', '.join(known)}")
