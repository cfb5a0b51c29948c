"""Text to image from scratch, in four trainings: autoencoder, clip, latent, upsampler (launch/text_to_image.sh)."""

from typing import Any

from ml_collections import ConfigDict

SIZE = {None: 128, "quick": 64, "tiny": 64, "smoke": 16}
"""Pixels a side, by the variant."""
HELD_OUT = 128
PROMPTS = (
    *("red heart", "smiling face with sunglasses", "cat face", "evergreen tree", "rainbow"),
    *("sun", "pizza", "blue book", "rocket", "ghost"),
)
"""What the grids that are drawn in training are of, and the last pictures."""


def data(variant: str | None) -> dict[str, Any]:
    """The section ``data``: a folder of captioned images, of which some are held out."""
    return {"name": "image_folder", "image_size": SIZE[variant], "held_out": 8 if variant == "smoke" else HELD_OUT}


def training(variant: str | None, *, batch_size: int, num_steps: int, ema_decay: float, every: int) -> ConfigDict:
    """The section ``training``; a smoke test's has two steps."""
    if variant == "smoke":
        batch_size, num_steps, every = 8, 2, 2
    intervals = {
        "log_every": max(1, every // 10),
        "eval_every": every,
        "sample_every": every,
        "checkpoint_every": every,
    }
    return ConfigDict({"batch_size": batch_size, "num_steps": num_steps, "ema_decay": ema_decay, **intervals})
