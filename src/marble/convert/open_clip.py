"""OpenCLIP's text networks, which Stable Diffusion's own files hold, by transformers' names."""

import re

from marble.convert.tensors import Tensor, Tensors, under
from marble.models.clip import ClipText


def of_open_clip(tensors: Tensors, model: ClipText, *, prefix: str = "") -> dict[str, Tensor]:
    """OpenCLIP's tensors of a text under transformers' names; those whose names don't begin with prefix are left out.

    Stable Diffusion's own files hold them: ``cond_stage_model.model.`` in version 2, ``conditioner.embedders.1.model.``
    in SDXL. Version 2 reads what goes into the last block, so a block more than the model's is not read; nor are
    logit_scale, the mask, and without a projection of the model the file's.
    """
    not_read = {"logit_scale", "attn_mask"} | ({"text_projection"} if model.projection is None else set())
    made = {}
    for name, tensor in under(tensors, prefix).items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if block and int(block[1]) != model.num_layers:
            made |= _open_clip_block(int(block[1]), block[2], tensor)
        elif not block and name not in not_read:
            made |= _open_clip_ends(name, tensor)
    return made


def _open_clip_block(index: int, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """An array of OpenCLIP's block as those of transformers'; q, k and v are one there, along its first axis."""
    theirs = f"text_model.encoder.layers.{index}."
    if name.startswith("attn.in_proj_"):
        width, kind = tensor.shape[0] // 3, name.removeprefix("attn.in_proj_")
        return {
            f"{theirs}self_attn.{part}_proj.{kind}": tensor.part(slice(i * width, (i + 1) * width))
            for i, part in enumerate("qkv")
        }
    names = {"attn": "self_attn", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2"}
    return {theirs + ".".join(names.get(part, part) for part in name.split(".")): tensor}


def _open_clip_ends(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What is before and after OpenCLIP's blocks; its projection is [w p] where transformers' is [p w]."""
    if name == "text_projection":
        return {"text_projection.weight": tensor.transposed(1, 0)}
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    return {f"text_model.{names[name]}" if name in names else name: tensor}
