"""Tables of the blocks that several U-Nets and autoencoders have, by diffusers' names or those that they are given."""

import re

from marble.convert.names import CONV, DENSE, POINTWISE, Entry, Layout, attention, layer, norm

TO_QKV = ("to_q", "to_k", "to_v", "to_out.0")
"""What diffusers calls query, key, value and proj of every attention."""
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called the layers of the attention over pixels until 2023."""


def residual_block(
    ours: str, theirs: str, *, is_wider: bool, emb: str | None = "time_emb_proj", shortcut: str = "conv_shortcut"
) -> list[Entry]:
    """Two norms and convolutions. emb is what reads the time, None in a block that is told none.

    shortcut is there where the number of channels changes, is_wider.
    """
    entries = [*norm(f"{ours}/norm_0", f"{theirs}.norm1"), *layer(f"{ours}/conv_0", f"{theirs}.conv1", CONV)]
    entries += [] if emb is None else layer(f"{ours}/emb", f"{theirs}.{emb}", DENSE)
    entries += [*norm(f"{ours}/norm_1", f"{theirs}.norm2"), *layer(f"{ours}/conv_1", f"{theirs}.conv2", CONV)]
    return entries + (layer(f"{ours}/shortcut", f"{theirs}.{shortcut}", POINTWISE) if is_wider else [])


def pixel_attention(
    ours: str,
    theirs: str,
    *,
    before: str = "group_norm",
    layers: tuple[str, str, str, str] = TO_QKV,
    layout: Layout = DENSE,
) -> list[Entry]:
    """Attention of pixels to each other, with the norm before it; layers are names of query, key, value and proj."""
    return norm(f"{ours}/norm", f"{theirs}.{before}") + attention(ours, theirs, layers, layout)


def attention_as_now(name: str) -> str:
    """The name that diffusers gives now to an array of an attention over pixels; of another array, its own."""
    found = re.fullmatch(r"(.*\battentions\.\d+\.)(\w+)(\.\w+)", name)
    return f"{found[1]}{OLD_ATTENTION.get(found[2], found[2])}{found[3]}" if found else name
