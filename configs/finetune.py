"""A published checkpoint, trained on with your own images: every weight of its denoising network.

Paper      Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752, and
           whatever describes the checkpoint; the text encoder and the autoencoder stay as they are
Command    marble train --config configs/finetune.py --workdir runs/finetune --config.data.source=DIR, where the config
           names the checkpoint as its variant: --config configs/finetune.py:sd15
Hardware   for Stable Diffusion 1.x one GPU of 40 GB or more, or eight TPU v5e with --config.parallel.sharding=fsdp;
           never timed
Expected   pictures of what your images show, for the texts they were trained with, in WORKDIR/samples; never run to its
           end on real weights: no figure is known
Variants   :CHECKPOINT is needed: a folder as diffusers has it, or a workdir of marble. What it makes of noise, its text
           encoder, its autoencoder and its schedule are taken from there

What to change
  texts            an image's text is the name of its folder, as in DIR/a red fox/1.png; one for all of a flat folder:
                   --config.text.template="a photo of a sks dog"; around names: --config.text.template="a photo of a {}"
  memory           --config.model.dtype=bfloat16 --config.model.remat=True --config.training.accumulate=4; or train
                   adapters alone, with configs/lora.py
  other sizes      --config.data.image_size=256
"""

from ml_collections import ConfigDict


def get_config(variant: str | None = None) -> ConfigDict:
    """The config for the checkpoint that variant names."""
    if not variant:
        raise ValueError("name the checkpoint that is trained on: configs/finetune.py:FOLDER")
    from marble.loading import recalled

    found, data = recalled(variant)
    config = ConfigDict({name: dict(found[name]) for name in ("model", "diffusion", "sampling")})
    for part in ("text", "autoencoder"):
        if part in found:
            config[part] = ConfigDict(dict(found[part]))
    config.update({"seed": 0, "conditioner": found["conditioner"], "codec": found["codec"], "init_from": variant})
    config.data = ConfigDict({"name": "image_folder", "image_size": data.image.shape[0], "flip": False})
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-5, "warmup_steps": 100, "clip_norm": 1.0})
    config.training = ConfigDict(
        {
            "batch_size": 4,
            "num_steps": 2000,
            "ema_decay": 0.999,
            "log_every": 10,
            "sample_every": 500,
            "checkpoint_every": 500,
            "keep_checkpoints": 1,
        }
    )
    config.sampling.batch_size = 4
    return config
