"""The autoencoder of Stable Diffusion: its config and its arrays by diffusers' names (``AutoencoderKL``)."""

from collections.abc import Mapping
from typing import Any

from marble.convert.blocks import attention_as_now, pixel_attention, residual_block
from marble.convert.names import CONV, POINTWISE, Entry, layer, norm, renamed
from marble.convert.published import check_blocks, check_supported, multiples, needed, one_number_of_channels, widths_of
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.autoencoder_kl import AutoencoderKL

NAME = "AutoencoderKL"
SUPPORTED = {
    "act_fn": ("silu",),
    "shift_factor": (None, 0.0),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
}


def model_of(config: Mapping[str, Any], **fields: Any) -> AutoencoderKL:
    """The model of a published config; fields are of what no config says, such as dtype. InputError if unsupported."""
    check_supported(config, NAME, SUPPORTED)
    check_blocks(config, NAME, "down_block_types", ("DownEncoderBlock2D",))
    check_blocks(config, NAME, "up_block_types", ("UpDecoderBlock2D",))
    channels, channel_mult = multiples(needed(config, NAME, "block_out_channels"), NAME)
    quant = config.get("use_quant_conv", True)
    if quant != config.get("use_post_quant_conv", True):
        raise InputError(
            f"{NAME} with a convolution on one side of the latents alone is not supported: set both or none"
        )
    return AutoencoderKL(
        image_channels=one_number_of_channels(config, NAME, 3),
        latent_channels=config.get("latent_channels", 4),
        channels=channels,
        channel_mult=channel_mult,
        num_res_blocks=config.get("layers_per_block", 1),
        use_quant_conv=quant,
        num_groups=config.get("norm_num_groups", 32),
        **fields,
    )


def scale_of(config: Mapping[str, Any]) -> float:
    """What latents are multiplied by before they diffuse."""
    return config.get("scaling_factor", 0.18215)


def config_of(model: AutoencoderKL, *, scale: float, sample_size: int = 512) -> dict[str, Any]:
    """What diffusers is told of a model."""
    levels = len(model.channel_mult)
    return {
        "_class_name": NAME,
        "in_channels": model.image_channels,
        "out_channels": model.image_channels,
        "latent_channels": model.latent_channels,
        "block_out_channels": widths_of(model.channels, model.channel_mult),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": model.num_res_blocks,
        "norm_num_groups": model.num_groups,
        "use_quant_conv": model.use_quant_conv,
        "use_post_quant_conv": model.use_quant_conv,
        "act_fn": "silu",
        "scaling_factor": scale,
        "sample_size": sample_size,
    }


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """A file's tensors by the names that diffusers gives them now."""

    def flat(name: str, tensor: Tensor) -> Tensor:
        # Files of the first half of 2023 and CompVis' have 1x1 convolutions where there are linear layers now.
        return tensor.reshaped(*tensor.shape[:2]) if ".attentions.0." in name and len(tensor.shape) == 4 else tensor

    return {name: flat(name, tensor) for name, tensor in renamed(tensors, attention_as_now).items()}


def table(model: AutoencoderKL) -> list[Entry]:
    """Our paths and diffusers' names."""
    widths, levels = widths_of(model.channels, model.channel_mult), len(model.channel_mult)
    entries, width = [], widths[0]
    for level in range(levels):
        if level > 0:
            ours = f"encoder/down_{level}_sample"
            entries += layer(ours, f"encoder.down_blocks.{level - 1}.downsamplers.0.conv", CONV)
        for i in range(model.num_res_blocks):
            theirs = f"encoder.down_blocks.{level}.resnets.{i}"
            is_wider, width = width != widths[level], widths[level]
            entries += residual_block(f"encoder/down_{level}_block_{i}", theirs, is_wider=is_wider, emb=None)
    for level in reversed(range(levels)):
        there = f"decoder.up_blocks.{levels - 1 - level}"
        for i in range(model.num_res_blocks + 1):
            is_wider, width = width != widths[level], widths[level]
            ours = f"decoder/up_{level}_block_{i}"
            entries += residual_block(ours, f"{there}.resnets.{i}", is_wider=is_wider, emb=None)
        if level > 0:
            entries += layer(f"decoder/up_{level}_sample", f"{there}.upsamplers.0.conv", CONV)
    for half in ("encoder", "decoder"):
        entries += _ends(half)
    if model.use_quant_conv:
        entries += [*layer("quant", "quant_conv", POINTWISE), *layer("post_quant", "post_quant_conv", POINTWISE)]
    return entries


def _ends(half: str) -> list[Entry]:
    """What both halves have: the first and last layers, and the middle."""
    entries = [*layer(f"{half}/conv_in", f"{half}.conv_in", CONV), *layer(f"{half}/conv_out", f"{half}.conv_out", CONV)]
    entries += norm(f"{half}/norm_out", f"{half}.conv_norm_out")
    for i in (0, 1):
        theirs = f"{half}.mid_block.resnets.{i}"
        entries += residual_block(f"{half}/middle_block_{i}", theirs, is_wider=False, emb=None)
    return entries + pixel_attention(f"{half}/middle_attention", f"{half}.mid_block.attentions.0")
