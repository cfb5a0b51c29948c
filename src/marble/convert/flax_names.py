"""Flax files of diffusers and transformers, which both have left, by the names and layouts of their PyTorch ones."""

import re

from marble.convert.tensors import Tensor, Tensors

INDEXED = re.compile(
    r"^(down_blocks|up_blocks|resnets|attentions|transformer_blocks|downsamplers|upsamplers|net|to_out)_(\d+)$"
)
"""Lists of layers, whose index Flax has after a _; the other names that end in a number are names of one layer."""


def of_flax(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of a Flax file of diffusers or transformers by the names and layouts of their PyTorch ones."""
    made = {}
    for path, tensor in tensors.items():
        *parts, leaf = path.removeprefix("params/").split("/")
        name = ".".join(INDEXED.sub(r"\1.\2", part) for part in parts)
        leaf_there = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
        name = f"{name}.{leaf_there}" if name else leaf_there
        axes = {("kernel", 4): (3, 2, 0, 1), ("kernel", 2): (1, 0)}.get((leaf, len(tensor.shape)))
        made[name] = tensor if axes is None else tensor.transposed(*axes)
    return made
