"""Names of Stable Diffusion's layers in CompVis' code (Rombach et al. 2022), told from those of diffusers.

diffusers has a list of each kind of block a level. CompVis numbers the U-Net's blocks through (``input_blocks.N.J`` is
part J of the N-th block on the way down), and counts the autoencoder's levels on the way up from the last.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from marble.convert import autoencoder_kl, conditional_unet

PART = re.compile(r"(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
"""A layer of diffusers' within a block of either network."""

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""The U-Net's first and last layers."""
UNET_IN_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""The same within a residual block; transformers have the same names in both."""
VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
"""The ends of names of the autoencoder's layers."""


def unet_layers(layers: Collection[str]) -> dict[str, str]:
    """{diffusers' name: CompVis'} of layers of a U-Net; those that are of none have no name.

    Where a block stands depends on how many a level has, and on which levels have transformers: the layers tell, so
    that they have to be all that have a kernel.
    """
    blocks = sum(re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1", name) is not None for name in layers)
    attending = {name.split(".attentions.")[0] for name in layers if ".attentions." in name}
    found = {}
    for name in layers:
        if name in UNET_ENDS:
            found[name] = UNET_ENDS[name]
        elif match := PART.fullmatch(name):
            way, level, kind, i, rest = match.groups()
            rest = UNET_IN_BLOCK.get(rest, rest) if kind == "resnets" else rest
            rest = "op" if kind == "downsamplers" else rest
            place = _unet_place(way, int(level or 0), kind, int(i), blocks, f"up_blocks.{level}" in attending)
            found[name] = f"{place}.{rest}"
    return found


def _unet_place(way: str, level: int, kind: str, i: int, blocks: int, attends: bool) -> str:
    """Of a part: ``input_blocks.N.J``. What halves is a block of its own; what doubles is the last part of one."""
    part = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1 + attends}[kind]
    if way == "mid":
        return f"middle_block.{2 * i + part}"
    at = level * (blocks + 1) + (i if kind in ("resnets", "attentions") else blocks)
    # The first block on the way down is the first convolution
    return f"input_blocks.{at + 1}.{part}" if way == "down" else f"output_blocks.{at}.{part}"


def _vae_layer(name: str, levels: int) -> str:
    """CompVis' name of diffusers' of a layer of the autoencoder."""
    if not name.startswith(("encoder.", "decoder.")):
        return name
    for theirs, there in VAE_PARTS.items():
        name = re.sub(rf"\.{re.escape(theirs)}$", f".{there}", name)
    half, _, within = name.partition(".")
    if not (match := PART.fullmatch(within)):
        return name
    way, level, kind, i, rest = match.groups()
    if way == "mid":
        return f"{half}.mid.{'block' if kind == 'resnets' else 'attn'}_{int(i) + 1}.{rest}"
    place = f"{half}.{way}.{int(level) if way == 'down' else levels - 1 - int(level)}"
    return f"{place}.block.{i}.{rest}" if kind == "resnets" else f"{place}.{kind.removesuffix('rs')}.{rest}"


def unet_names(config: Mapping[str, Any]) -> dict[str, str]:
    """{diffusers' name: CompVis'} of all arrays of the U-Net of that config, without what is before it in a file."""
    model, linear = conditional_unet.model_of(config), conditional_unet.uses_linear_projection(config)
    names = [entry.theirs.rpartition(".") for entry in conditional_unet.table(model, linear=linear)]
    layers = unet_layers({layer for layer, _, _ in names})
    return {f"{layer}.{leaf}": f"{layers[layer]}.{leaf}" for layer, _, leaf in names}


def vae_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The same of the autoencoder of that config."""
    model = autoencoder_kl.model_of(config)
    names = [entry.theirs.rpartition(".") for entry in autoencoder_kl.table(model)]
    return {f"{layer}.{leaf}": f"{_vae_layer(layer, len(model.channel_mult))}.{leaf}" for layer, _, leaf in names}
