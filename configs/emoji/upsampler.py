"""Emoji, part 4 of 4: the other decoder, which makes what the latent model draws twice as large in each direction.

Paper      Ho et al. 2022, Cascaded Diffusion Models for High Fidelity Image Generation, arXiv:2106.15282
Command    marble train --config configs/emoji/upsampler.py --workdir runs/emoji/upsampler --config.data.source=DIR
Hardware   one GPU; :tiny 2 CPU cores
Expected   sharper than interpolation: benchmarks/suites/text_to_image.py prints both's PSNR and distance of features
Variants   each doubles the sides of what the same variant of latent.py draws, to 256x256, and of :quick and :tiny to
           128x128; :smoke is two steps of a tiny model. :regression, :quick_regression, :tiny_regression and
           :smoke_regression answer in one step and draw nothing
"""

from ml_collections import ConfigDict

from marble.configs import unknown_variant
from marble.configs.emoji import data, training

FACTOR = 2
SIZES = (None, "quick", "tiny", "smoke")


def of_size(variant: str | None) -> tuple[str | None, bool]:
    """The variant by its size, and whether it is the regression of that size."""
    regressions = {f"{size}_regression" if size else "regression": size for size in SIZES}
    if variant not in (*SIZES, *regressions):
        raise unknown_variant(variant, *SIZES[1:], *regressions)
    return regressions.get(variant, variant), variant in regressions


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    size, is_regression = of_size(variant)
    config = ConfigDict({"seed": 0, "data": data(size)})
    config.data.image_size *= FACTOR
    config.model = ConfigDict(
        {
            "name": "unet",
            "patch_size": 2,
            "channels": 128,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 2,
            "attention_resolutions": (),
            "num_groups": 32,
            "dropout": 0.0,
        }
    )
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 2e-4, "warmup_steps": 500, "clip_norm": 1.0})
    config.training = training(size, batch_size=16, num_steps=30_000, ema_decay=0.999, every=2500)
    if size is not None:
        config.model.update({"channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 8})
    if size == "quick":
        config.model.update({"channels": 64, "num_res_blocks": 2})
        config.optimizer.update({"learning_rate": 5e-4, "warmup_steps": 100, "decay_steps": 2000})
        config.training = training(size, batch_size=16, num_steps=2000, ema_decay=0.99, every=1000)
    if size == "tiny":
        config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 50, "decay_steps": 300})
        config.training = training(size, batch_size=4, num_steps=300, ema_decay=0.99, every=300)
    if is_regression:
        config.objective = "upsampler"
        config.upsampler = ConfigDict({"factor": FACTOR, "pixels": "l2"})  # what PSNR counts
        return config
    config.model.reads_low_res = config.model.adds_low_res = True
    config.conditioner = "low_res"
    config.low_res = ConfigDict({"factor": FACTOR, "max_aug_level": 0.3, "aug_level": 0.1})
    # x_0, which is the small image and a little more at any t: for noise or v, patches would have to carry all of x_t.
    config.diffusion = ConfigDict(
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000, "prediction_type": "x_0"}
    )
    config.sampling = ConfigDict({"sampler": "ddim", "num_steps": 50, "batch_size": 16})
    if size is not None:
        config.low_res.update({"max_aug_level": 0.1, "aug_level": 0.05})
        config.sampling.num_steps = 2 if size == "smoke" else 25
    return config
