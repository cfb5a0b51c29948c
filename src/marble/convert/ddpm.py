"""The U-Net of DDPM: by diffusers' names (``UNet2DModel``), and by those of its first PyTorch copies.

The names are in ``ddpm_names``. The copies (pesser/pytorch_diffusion, ermongroup/ddim) keep no config:
``model_of_tensors`` reads the architecture off the shapes.
"""

from collections.abc import Mapping
from typing import Any

from marble.convert.blocks import attention_as_now
from marble.convert.ddpm_names import DIFFUSERS, ORIGINAL, entries
from marble.convert.names import Entry, embedding, renamed
from marble.convert.published import attending, check_supported, multiples, needed, side_of, unsupported, widths_of
from marble.convert.reading import Shapes
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


def model_of(config: Mapping[str, Any], **fields: Any) -> UNet:
    """The model of a published config; fields are of what no config says, such as dtype. InputError if unsupported.

    Levels attend by the image's height here and by themselves there: they are the same for images of sample_size.
    diffusers knows no null class: such a model has to be told a label.
    """
    check_supported(config, NAME, SUPPORTED)
    channels, channel_mult = multiples(needed(config, NAME, "block_out_channels"), NAME)
    if config.get("time_embedding_dim") not in (None, 4 * channels):
        raise unsupported(
            NAME, "time_embedding_dim", config["time_embedding_dim"], f"{4 * channels}, 4 times the channels"
        )
    num_groups = config.get("norm_num_groups", 32)
    if config.get("attn_norm_num_groups") not in (None, num_groups):
        raise unsupported(
            NAME, "attn_norm_num_groups", config["attn_norm_num_groups"], f"norm_num_groups, {num_groups}"
        )
    rows = config.get("num_class_embeds")
    if rows is not None and rows < 1:
        raise unsupported(NAME, "num_class_embeds", rows, "at least 1, or none")
    attends = attending(config, NAME, len(channel_mult), PLAIN, WITH_ATTENTION)
    heights = _heights(side_of(config, NAME), len(channel_mult))
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
    if model.patch_size > 1:
        raise InputError(f"diffusers has no {NAME} of patches, as patch_size={model.patch_size} makes")
    if model.reads_x_0:
        raise InputError(f"diffusers has no {NAME} that reads an earlier estimate, as reads_x_0=True does")
    if model.reads_s:
        raise InputError(f"diffusers has no {NAME} that is told where a step ends, as reads_s=True is")
    if model.reads_low_res:
        raise InputError(f"diffusers has no {NAME} that reads a smaller image, as reads_low_res=True does")
    attends = _attends_of(model, sample_size)
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


def _attends_of(model: UNet, sample_size: int) -> list[bool]:
    """Whether each level attends, for images of that height; InputError if that height can't be halved so often."""
    heights = _heights(sample_size, len(model.channel_mult))
    return [height in model.attention_resolutions for height in heights]


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """A file's tensors by the names that diffusers gives them now."""
    return renamed(tensors, attention_as_now)


def without_wrapper(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors without the ``module.`` before the names of a model that was trained on several GPUs."""
    is_wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
    return renamed(tensors, lambda name: name.removeprefix("module.") if is_wrapped else name)


def model_of_tensors(tensors: Tensors, image_size: int, *, source: str = "the file", **fields: Any) -> UNet:
    """The model of a file that has the first copies' names, for images of that height.

    They all have 32 groups and one head. InputError, which begins with source, where these are not such names.
    """
    shapes = Shapes(tensors, source, "it is no U-Net of DDPM's first PyTorch copies")
    levels = max(shapes.count(r"down\.(\d+)\."), 1)
    widths = [shapes.of(f"down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    channels = shapes.of("conv_in.weight")[0]
    if widths[0] % channels:
        raise InputError(f"{source}: a first level of {widths[0]} channels after {channels} is not supported")
    heights = _heights(image_size, levels)
    return UNet(
        out_channels=shapes.of("conv_out.weight")[0],
        channels=channels,
        channel_mult=multiples([channels, *widths], NAME)[1][1:],
        num_res_blocks=shapes.count(r"down\.0\.block\.(\d+)\."),
        attention_resolutions=tuple(heights[i] for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        **fields,
    )


def table(model: UNet, sample_size: int) -> list[Entry]:
    """Our paths and diffusers' names, for images of that height."""
    labels = [] if model.num_classes is None else embedding("label/rows", "class_embedding")
    return entries(model, _attends_of(model, sample_size), DIFFUSERS) + labels


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
        reads_low_res=False,
        reads_s=False,
        patch_size=1,
    )
    for field, value in paper_s.items():
        if getattr(model, field) != value:
            raise InputError(f"DDPM's first copies have no {field}={getattr(model, field)}: it is {value} there")
    return entries(model, _attends_of(model, image_size), ORIGINAL)


def _head_channels(config: Mapping[str, Any], widths: list[int], attends: list[bool]) -> int | None:
    """Channels a head; None is one head."""
    dim = config.get("attention_head_dim", 8)
    for width in {widths[-1], *(width for width, here in zip(widths, attends, strict=True) if here)}:
        if dim is not None and width % dim:
            raise unsupported(
                NAME, "attention_head_dim", dim, f"a divisor of {width}, the channels of a level that attends"
            )
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
    flip, shift = config.get("flip_sin_to_cos", True), config.get("freq_shift", 0)
    if (flip, shift) not in CONVENTIONS:
        supported = ", ".join(f"{flip} and {shift}" for flip, shift in CONVENTIONS)
        raise InputError(
            f"{NAME} with flip_sin_to_cos={flip} and freq_shift={shift} is not supported: what is, is {supported}"
        )
    return CONVENTIONS[flip, shift]


def _heights(height: int, levels: int) -> list[int]:
    """Of the image, at each level."""
    if height % 2 ** (levels - 1):
        raise InputError(f"images of {height} pixels don't fit {levels} levels: give a multiple of {2 ** (levels - 1)}")
    return [height // 2**level for level in range(levels)]
