"""The U-Net of DDPM: by diffusers' names (``UNet2DModel``), and by those of its first PyTorch copies.

Both have the same layers in the same places, so that one walk over the network makes both tables. The copies
(pesser/pytorch_diffusion, ermongroup/ddim) keep no config: ``model_of_tensors`` reads the architecture off the shapes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from marble.convert.names import CONV, DENSE, POINTWISE, Entry, Layout, embedding, layer, norm, renamed
from marble.convert.published import check_blocks, check_supported, multiples, needed, widths_of
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.unet import UNet

NAME = "UNet2DModel"
SUPPORTED = {
    "_class_name": (NAME,),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "downsample_padding": (1, 0),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
"""What each key of a config may say; the first is what leaving it out means."""
PLAIN, WITH_ATTENTION = ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D")
CONVENTIONS = {(False, 1): "ddpm", (True, 0): "adm", (True, 1): "mixed"}
"""time_convention by flip_sin_to_cos and freq_shift."""
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called the layers of this attention until 2023."""


def model_of(config: Mapping[str, Any], **fields: Any) -> UNet:
    """The model of a published config; fields are of what no config says, such as dtype. InputError if unsupported.

    Levels attend by the image's height here and by themselves there: they are the same for images of sample_size.
    diffusers knows no null class: such a model has to be told a label.
    """
    check_supported(config, NAME, SUPPORTED)
    channels, channel_mult = multiples(needed(config, NAME, "block_out_channels"), NAME)
    if config.get("time_embedding_dim") not in (None, 4 * channels):
        raise _unsupported("time_embedding_dim", config["time_embedding_dim"], f"{4 * channels}, 4 times the channels")
    num_groups = config.get("norm_num_groups", 32)
    if config.get("attn_norm_num_groups") not in (None, num_groups):
        raise _unsupported("attn_norm_num_groups", config["attn_norm_num_groups"], f"norm_num_groups, {num_groups}")
    rows = config.get("num_class_embeds")
    if rows is not None and rows < 1:
        raise _unsupported("num_class_embeds", rows, "at least 1, or none")
    attends = _attends(config, len(channel_mult))
    heights = _heights(_height(needed(config, NAME, "sample_size")), len(channel_mult))
    return UNet(
        out_channels=config.get("out_channels", 3),
        channels=channels,
        channel_mult=channel_mult,
        num_res_blocks=config.get("layers_per_block", 2),
        attention_resolutions=tuple(height for height, here in zip(heights, attends, strict=True) if here),
        head_channels=_head_channels(config, widths_of(channels, channel_mult), attends),
        dropout=config.get("dropout", 0.0),
        num_groups=num_groups,
        num_classes=rows,
        has_null_class=rows is None,
        epsilon=config.get("norm_eps", 1e-5),
        time_convention=_convention(config),
        pads_both_sides=config.get("downsample_padding", 1) == 1,
        **fields,
    )


def config_of(model: UNet, *, sample_size: int, in_channels: int) -> dict[str, Any]:
    """What diffusers is told of a model for images of that height. InputError where it has none like it."""
    if model.reads_x_0:
        raise InputError(f"diffusers has no {NAME} that reads an earlier estimate, as reads_x_0=True does")
    attends = attends_of(model, sample_size)
    flip, shift = next(key for key, convention in CONVENTIONS.items() if convention == model.time_convention)
    return {
        **{key: values[0] for key, values in SUPPORTED.items()},
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": model.out_channels,
        "block_out_channels": widths_of(model.channels, model.channel_mult),
        "down_block_types": [(WITH_ATTENTION if here else PLAIN)[0] for here in attends],
        "up_block_types": [(WITH_ATTENTION if here else PLAIN)[1] for here in reversed(attends)],
        "layers_per_block": model.num_res_blocks,
        "attention_head_dim": _head_dim(model, attends),
        "norm_num_groups": model.num_groups,
        "norm_eps": model.epsilon,
        "flip_sin_to_cos": flip,
        "freq_shift": shift,
        "downsample_padding": 1 if model.pads_both_sides else 0,
        "dropout": model.dropout,
        "num_class_embeds": None if model.num_classes is None else model.num_classes + model.has_null_class,
    }


def attends_of(model: UNet, sample_size: int) -> list[bool]:
    """Whether each level attends, for images of that height; InputError if that height can't be halved so often."""
    heights = _heights(sample_size, len(model.channel_mult))
    return [height in model.attention_resolutions for height in heights]


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """A file's tensors by the names that diffusers gives them now."""

    def name_of(name: str) -> str:
        found = re.fullmatch(r"(.*\battentions\.\d+\.)(\w+)(\.\w+)", name)
        return f"{found[1]}{OLD_ATTENTION.get(found[2], found[2])}{found[3]}" if found else name

    return renamed(tensors, name_of)


def without_wrapper(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors without the ``module.`` before the names of a model that was trained on several GPUs."""
    is_wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
    return renamed(tensors, lambda name: name.removeprefix("module.") if is_wrapped else name)


def model_of_tensors(tensors: Tensors, image_size: int, *, source: str = "the file", **fields: Any) -> UNet:
    """The model of a file that has the first copies' names, for images of that height.

    They all have 32 groups and one head. InputError, which begins with source, where these are not such names.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(f"{source} has no {name}: it is no U-Net of DDPM's first PyTorch copies")
        return tensors[name].shape

    def count(pattern: str) -> int:
        found = (re.match(pattern, name) for name in tensors)
        return max((int(match[1]) + 1 for match in found if match), default=0)

    levels = max(count(r"down\.(\d+)\."), 1)
    widths = [shape(f"down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    channels = shape("conv_in.weight")[0]
    if widths[0] % channels:
        raise InputError(f"{source}: a first level of {widths[0]} channels after {channels} is not supported")
    heights = _heights(image_size, levels)
    return UNet(
        out_channels=shape("conv_out.weight")[0],
        channels=channels,
        channel_mult=multiples([channels, *widths], NAME)[1][1:],
        num_res_blocks=count(r"down\.0\.block\.(\d+)\."),
        attention_resolutions=tuple(heights[i] for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        **fields,
    )


class Names(NamedTuple):
    """What a library calls the parts of this network, by what they are."""

    places: Mapping[str, str]
    """Of each part, with level, its index i, and level and index counted otherwise: above, mirrored, and next."""
    ends: Mapping[str, str]
    layers: Mapping[str, str]
    """Of a block and of an attention, but those that both libraries call alike."""
    projection: Layout
    """Of the attention's layers."""


OURS = {
    "down_block": "down_{level}_block_{i}",
    "down_attention": "down_{level}_attention_{i}",
    "down_sample": "down_{level}_sample",
    "middle_block": "middle_block_{i}",
    "middle_attention": "middle_attention",
    "up_block": "up_{level}_block_{i}",
    "up_attention": "up_{level}_attention_{i}",
    "up_sample": "up_{level}_sample",
}
DIFFUSERS = Names(
    {
        "down_block": "down_blocks.{level}.resnets.{i}",
        "down_attention": "down_blocks.{level}.attentions.{i}",
        "down_sample": "down_blocks.{above}.downsamplers.0.conv",
        "middle_block": "mid_block.resnets.{i}",
        "middle_attention": "mid_block.attentions.{i}",
        "up_block": "up_blocks.{mirrored}.resnets.{i}",
        "up_attention": "up_blocks.{mirrored}.attentions.{i}",
        "up_sample": "up_blocks.{mirrored}.upsamplers.0.conv",
    },
    {"dense_0": "time_embedding.linear_1", "dense_1": "time_embedding.linear_2", "norm_out": "conv_norm_out"},
    {
        "emb": "time_emb_proj",
        "shortcut": "conv_shortcut",
        "norm": "group_norm",
        "query": "to_q",
        "key": "to_k",
        "value": "to_v",
        "proj": "to_out.0",
    },
    DENSE,
)
ORIGINAL = Names(
    {
        "down_block": "down.{level}.block.{i}",
        "down_attention": "down.{level}.attn.{i}",
        "down_sample": "down.{above}.downsample.conv",
        "middle_block": "mid.block_{next}",
        "middle_attention": "mid.attn_{next}",
        "up_block": "up.{level}.block.{i}",
        "up_attention": "up.{level}.attn.{i}",
        "up_sample": "up.{level}.upsample.conv",
    },
    {"dense_0": "temb.dense.0", "dense_1": "temb.dense.1", "norm_out": "norm_out"},
    {
        "emb": "temb_proj",
        "shortcut": "nin_shortcut",
        "norm": "norm",
        "query": "q",
        "key": "k",
        "value": "v",
        "proj": "proj_out",
    },
    POINTWISE,
)


def table(model: UNet, sample_size: int) -> list[Entry]:
    """Our paths and diffusers' names, for images of that height."""
    labels = [] if model.num_classes is None else embedding("label/rows", "class_embedding")
    return _table(model, sample_size, DIFFUSERS) + labels


def original_table(model: UNet, image_size: int) -> list[Entry]:
    """Our paths and the names of the first copies. InputError for a model that differs from what they compute."""
    paper_s = dict(
        num_classes=None,
        num_groups=32,
        num_heads=1,
        head_channels=None,
        epsilon=1e-6,
        time_convention="ddpm",
        pads_both_sides=False,
        reads_x_0=False,
    )
    for field, value in paper_s.items():
        if getattr(model, field) != value:
            raise InputError(f"DDPM's first copies have no {field}={getattr(model, field)}: it is {value} there")
    return _table(model, image_size, ORIGINAL)


def _table(model: UNet, size: int, names: Names) -> list[Entry]:
    entries = [*layer("conv_in", "conv_in", CONV), *layer("conv_out", "conv_out", CONV)]
    entries += norm("norm_out", names.ends["norm_out"])
    for name in ("dense_0", "dense_1"):
        entries += layer(f"time/{name}", names.ends[name], DENSE)
    last = len(model.channel_mult) - 1
    for part, level, i, is_wider in _parts(model, size):
        place = dict(level=level, i=i, above=level - 1, mirrored=last - level, next=i + 1)
        ours, theirs = OURS[part].format(**place), names.places[part].format(**place)
        if part.endswith("_block"):
            entries += _block(ours, theirs, names, is_wider)
        elif part.endswith("_attention"):
            entries += _attention(ours, theirs, names)
        else:
            entries += layer(ours, theirs, CONV)
    return entries


def _parts(model: UNet, size: int) -> Iterator[tuple[str, int, int, bool]]:
    """(part, level, index, whether its channels change) on the way through the network."""
    widths, attends = widths_of(model.channels, model.channel_mult), attends_of(model, size)
    width, skips = model.channels, [model.channels]
    for level, features in enumerate(widths):
        if level > 0:
            yield "down_sample", level, 0, False
            skips.append(width)
        for i in range(model.num_res_blocks):
            yield "down_block", level, i, width != features
            if attends[level]:
                yield "down_attention", level, i, False
            width = features
            skips.append(width)
    yield from (("middle_block", 0, i, False) for i in (0, 1))
    yield "middle_attention", 0, 0, False
    for level, features in reversed(list(enumerate(widths))):
        for i in range(model.num_res_blocks + 1):
            yield "up_block", level, i, width + skips.pop() != features
            if attends[level]:
                yield "up_attention", level, i, False
            width = features
        if level > 0:
            yield "up_sample", level, 0, False


def _block(ours: str, theirs: str, names: Names, is_wider: bool) -> list[Entry]:
    entries = [*norm(f"{ours}/norm_0", f"{theirs}.norm1"), *norm(f"{ours}/norm_1", f"{theirs}.norm2")]
    entries += [*layer(f"{ours}/conv_0", f"{theirs}.conv1", CONV), *layer(f"{ours}/conv_1", f"{theirs}.conv2", CONV)]
    entries += layer(f"{ours}/emb", f"{theirs}.{names.layers['emb']}", DENSE)
    return entries + (layer(f"{ours}/shortcut", f"{theirs}.{names.layers['shortcut']}", POINTWISE) if is_wider else [])


def _attention(ours: str, theirs: str, names: Names) -> list[Entry]:
    entries = norm(f"{ours}/norm", f"{theirs}.{names.layers['norm']}")
    for name in ("query", "key", "value", "proj"):
        entries += layer(f"{ours}/{name}", f"{theirs}.{names.layers[name]}", names.projection)
    return entries


def _attends(config: Mapping[str, Any], levels: int) -> list[bool]:
    """Whether each level attends, by the blocks that a config names."""
    down, up = needed(config, NAME, "down_block_types"), needed(config, NAME, "up_block_types")
    for key, side in (("down_block_types", 0), ("up_block_types", 1)):
        check_blocks(config, NAME, key, (PLAIN[side], WITH_ATTENTION[side]))
    attends = [block == WITH_ATTENTION[0] for block in down]
    if [block == WITH_ATTENTION[1] for block in reversed(up)] != attends:
        raise _unsupported("up_block_types", list(up), "down_block_types reversed")
    if len(attends) != levels:
        raise _unsupported("down_block_types", list(down), f"{levels} blocks, one for each of block_out_channels")
    return attends


def _head_channels(config: Mapping[str, Any], widths: list[int], attends: list[bool]) -> int | None:
    """Channels a head; None is one head."""
    dim = config.get("attention_head_dim", 8)
    for width in {widths[-1], *(width for width, here in zip(widths, attends, strict=True) if here)}:
        if dim is not None and width % dim:
            raise _unsupported("attention_head_dim", dim, f"a divisor of {width}, the channels of a level that attends")
    return dim


def _head_dim(model: UNet, attends: list[bool]) -> int | None:
    """attention_head_dim of ours: one number for all levels that attend, the middle among them."""
    if model.head_channels is not None or model.num_heads == 1:
        return model.head_channels
    widths = widths_of(model.channels, model.channel_mult)
    dims = {widths[-1], *(width for width, here in zip(widths, attends, strict=True) if here)}
    if len(dims) > 1:
        raise InputError(
            f"diffusers has no {NAME} with num_heads={model.num_heads} at levels of {sorted(dims)} channels: there, "
            "heads have the same channels at all levels (head_channels)"
        )
    return dims.pop() // model.num_heads


def _convention(config: Mapping[str, Any]) -> str:
    key = config.get("flip_sin_to_cos", True), config.get("freq_shift", 0)
    if key not in CONVENTIONS:
        supported = ", ".join(f"{flip} and {shift}" for flip, shift in CONVENTIONS)
        raise _unsupported("flip_sin_to_cos and freq_shift", f"{key[0]} and {key[1]}", supported)
    return CONVENTIONS[key]


def _height(sample_size: Any) -> int:
    return sample_size[0] if isinstance(sample_size, list | tuple) else sample_size


def _heights(height: int, levels: int) -> list[int]:
    """Of the image, at each level."""
    if height % 2 ** (levels - 1):
        raise InputError(f"images of {height} pixels don't fit {levels} levels: give a multiple of {2 ** (levels - 1)}")
    return [height // 2**level for level in range(levels)]


def _unsupported(key: str, value: Any, supported: str) -> InputError:
    return InputError(f"{NAME} with {key}={value} is not supported: what is, is {supported}")
