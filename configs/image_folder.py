"""A folder of your own images: a DDPM of 64x64 pixels.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, its CIFAR-10 network with
           a level more, for images of 64x64
Command    marble train --config configs/image_folder.py --workdir runs/image_folder --config.data.source=DIR
Hardware   one GPU of 16 GB or more, with --config.model.dtype=bfloat16; never timed
Expected   pictures that resemble yours after some ten thousands of steps, in WORKDIR/samples; 28,482,307 parameters for
           colour. Never run to its end: no figure is known
Variants   :conditional is told the class, the name of the folder that holds an image (DIR/cat/1.png) or the label of
           metadata.jsonl, and needs --config.model.num_classes=N; :smoke is two steps of a tiny model

What to change
  other sizes      --config.data.image_size=32, 128 or 256 (a multiple of 8); above 64 one level more, as
                   --config.model.channel_mult="(1, 1, 2, 2, 4)", which takes multiples of 16
  few images       below some thousands the model learns them by heart: --config.training.num_steps=20000
                   --config.model.dropout=0.3, or begin with trained weights, --config.init_from=WORKDIR
  a laptop         --config.data.image_size=32 --config.model.channels=32 --config.model.num_groups=8
                   --config.training.batch_size=16 --config.training.num_steps=20000 --config.sampling.num_steps=100
  no mirror image  text or faces that look one way: --config.data.flip=False
  held-out images  with DIR/validation or DIR/test: --config.training.eval_every=5000 tells their loss
"""

from ml_collections import ConfigDict

from marble.configs import smoke, unknown_variant


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"name": "image_folder", "image_size": 64, "flip": True})
    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": 128,
            "channel_mult": (1, 1, 2, 2),
            "num_res_blocks": 2,
            "attention_resolutions": (16,),
            "num_groups": 32,
            "dropout": 0.1,
        }
    )
    config.diffusion = ConfigDict({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000})
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 2e-4, "warmup_steps": 1000, "clip_norm": 1.0})
    config.training = ConfigDict(
        {
            "batch_size": 64,
            "num_steps": 200_000,
            "ema_decay": 0.9999,
            "log_every": 100,
            "eval_every": 0,
            "sample_every": 5000,
            "checkpoint_every": 1000,
        }
    )
    config.sampling = ConfigDict({"sampler": "ancestral", "variance_type": "fixed_large", "batch_size": 64})
    match variant:
        case None:
            return config
        case "conditional":
            config.model.num_classes = 2
            config.training.label_dropout = 0.1
            return config
        case "smoke":
            config.data.image_size = 16
            return smoke(config)
    raise unknown_variant(variant, "conditional", "smoke")
