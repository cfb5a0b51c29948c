"""The arrays of DDPM's U-Net by the names of two libraries, which have the same layers in the same places."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from marble.convert.blocks import TO_QKV, pixel_attention, residual_block
from marble.convert.names import CONV, DENSE, POINTWISE, Entry, Layout, layer, norm
from marble.convert.published import widths_of
from marble.convert.unet_places import DIFFUSERS as DIFFUSERS_PLACES
from marble.convert.unet_places import places
from marble.models.unet import UNet


class Names(NamedTuple):
    """What a library calls the parts of this network; what both call alike is not here."""

    places: Mapping[str, str]
    """Of each part, as in ``unet_places``."""
    time: tuple[str, str]
    norm_out: str
    emb: str
    """Of a residual block: the layer that reads the time."""
    shortcut: str
    attention_norm: str
    attention: tuple[str, str, str, str]
    """Query, key, value and what comes after."""
    attention_layout: Layout


DIFFUSERS = Names(
    places=DIFFUSERS_PLACES,
    time=("time_embedding.linear_1", "time_embedding.linear_2"),
    norm_out="conv_norm_out",
    emb="time_emb_proj",
    shortcut="conv_shortcut",
    attention_norm="group_norm",
    attention=TO_QKV,
    attention_layout=DENSE,
)
ORIGINAL = Names(
    places={
        "down_block": "down.{level}.block.{i}",
        "down_attention": "down.{level}.attn.{i}",
        "down_sample": "down.{above}.downsample.conv",
        "middle_block": "mid.block_{next}",
        "middle_attention": "mid.attn_{next}",
        "up_block": "up.{level}.block.{i}",
        "up_attention": "up.{level}.attn.{i}",
        "up_sample": "up.{level}.upsample.conv",
    },
    time=("temb.dense.0", "temb.dense.1"),
    norm_out="norm_out",
    emb="temb_proj",
    shortcut="nin_shortcut",
    attention_norm="norm",
    attention=("q", "k", "v", "proj_out"),
    attention_layout=POINTWISE,
)
"""The first PyTorch copies of DDPM."""


def entries(model: UNet, attends: Sequence[bool], names: Names) -> list[Entry]:
    """The table by these names, without the labels; attends is whether each level does."""
    found = [*layer("conv_in", "conv_in", CONV), *layer("conv_out", "conv_out", CONV)]
    found += norm("norm_out", names.norm_out)
    for i, there in enumerate(names.time):
        found += layer(f"time/dense_{i}", there, DENSE)
    widths = widths_of(model.channels, model.channel_mult)
    for place in places(model.channels, widths, model.num_res_blocks, attends, names.places):
        if place.kind == "block":
            found += residual_block(
                place.ours, place.theirs, is_wider=place.is_wider, emb=names.emb, shortcut=names.shortcut
            )
        elif place.kind == "attention":
            found += pixel_attention(
                place.ours,
                place.theirs,
                before=names.attention_norm,
                layers=names.attention,
                layout=names.attention_layout,
            )
        else:
            found += layer(place.ours, place.theirs, CONV)
    return found
