"""Single files of weights: which network one holds is told by the names in it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from marble.convert import compvis, ddpm, files
from marble.convert.tensors import Tensors
from marble.errors import InputError

logger = logging.getLogger(__name__)

SIGNS: Mapping[str, Sequence[str]] = {
    "CompVis": (f"{compvis.UNET}input_blocks.0.0.weight",),
    "ADM": ("input_blocks.0.0.weight", "time_embed.0.weight"),
    "DiT": ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "final_layer.linear.weight"),
    "DDPM": ("temb.dense.0.weight", "down.0.block.0.conv1.weight"),
}
"""Names that a file of each kind has."""
SUPPORTED = (
    "Stable Diffusion by CompVis' names (.ckpt, .safetensors), the U-Nets of iDDPM and ADM (.pt), DiT (.pt), DDPM's "
    "first PyTorch copies (.ckpt, .pt)"
)
OTHERS = {
    "double_blocks.": "Flux",
    "joint_blocks.": "Stable Diffusion 3",
    "lora": "a file of adapters (LoRA), which is given beside a model: marble sample --lora",
    "down_blocks.": "a network by diffusers' names, which is read with its config.json: give its folder",
    "text_model.": "a CLIP by transformers' names, which is read with its config.json: give its folder",
    "transformer_blocks.": "a network by diffusers' names, which is read with its config.json: give its folder",
    "embeddings.": "a network by transformers' names, which is read with its config.json: give its folder",
    "decoder.up.": "an autoencoder alone",
}
"""Names within files that look as if they could be read, and what they are."""
WITHIN = ("ema", "model_ema", "state_dict", "4", "model", "0")
"""Parts of a training's checkpoint, averages first: 4 is those of the list that DDIM's code saves."""


class File(NamedTuple):
    """A file of weights."""

    kind: str
    tensors: Tensors
    path: Path


def kind_of_file(tensors: Tensors, source: str = "the file") -> str:
    """CompVis, ADM, DiT or DDPM, by the names of tensors; InputError, which begins with source, for any other."""
    for kind, signs in SIGNS.items():
        if all(name in tensors for name in signs):
            return kind
    found = next((what for sign, what in OTHERS.items() if any(sign in name for name in tensors)), None)
    what = f"is {found}" if found else "holds none of the networks that are known"
    raise InputError(f"{source} {what}; supported are {SUPPORTED}")


def opened(path: Path) -> File:
    """The file's network, whatever else a training saved beside it; InputError where there is none that is known."""
    tensors = files.read(path)
    there = files.parts(tensors)
    for part in (name for name in WITHIN if name in there):
        found = ddpm.without_wrapper(files.within(tensors, part, path))
        if _is_known(found):
            logger.info("%s: what is within its %s is read", path, part)
            return File(kind_of_file(found), found, path)
    tensors = ddpm.without_wrapper(tensors)
    return File(kind_of_file(tensors, str(path)), tensors, path)


def _is_known(tensors: Tensors) -> bool:
    return any(all(name in tensors for name in signs) for signs in SIGNS.values())
