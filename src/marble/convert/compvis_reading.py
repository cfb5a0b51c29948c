"""What a file of Stable Diffusion by CompVis' names is: its version, and its networks, read off the shapes."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from marble.convert import clip, conditional_unet
from marble.convert.published import multiples
from marble.convert.reading import Shapes
from marble.convert.tensors import Tensors, under
from marble.errors import InputError
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.clip import ClipText
from marble.models.conditional_unet import ConditionalUNet

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXTS = {
    "1": {"text_encoder": "cond_stage_model.transformer."},
    "2": {"text_encoder": "cond_stage_model.model."},
    "xl": {"text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model."},
}
"""Where each version has its text encoders."""
Version = Literal["1", "2", "xl"]
VERSIONS: Mapping[int, Version] = {768: "1", 1024: "2", 2048: "xl"}
"""By the width of the text that the U-Net reads."""
HEAD_CHANNELS = 64
"""Of a head: everywhere, but for the U-Net of 1.x, which has 8 heads."""
TEXT_OF_UNET = "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
NOT_WHOLE = "it is no whole Stable Diffusion by CompVis' names"


def version_of(tensors: Tensors, *, source: str = "the file") -> Version:
    """Which Stable Diffusion a file is; InputError, which begins with source, where it is none of the supported."""
    unet = under(tensors, UNET)
    keys = [unet[name] for i in range(12) if (name := TEXT_OF_UNET.format(i)) in unet]
    if not keys:
        raise InputError(f"{source} has no U-Net that reads text, {UNET}*: it is no Stable Diffusion by CompVis' names")
    width = keys[0].shape[1]
    if width not in VERSIONS:
        remedy = "; the SDXL refiner is not supported" if width == 1280 else ""
        raise InputError(
            f"{source} has a U-Net that reads text of the width {width}: 768 (SD 1.x), 1024 (SD 2.x) and 2048 (SDXL) "
            f"are supported{remedy}"
        )
    version = VERSIONS[width]
    for prefix in TEXTS[version].values():
        if not any(name.startswith(prefix) for name in tensors):
            raise InputError(f"{source} has no text encoder {prefix}*, which Stable Diffusion {version} has")
    return version


def unet_config(tensors: Tensors, version: Version, source: str) -> dict[str, Any]:
    """diffusers' config of the U-Net, whose tensors these are, without what is before their names."""
    shapes = Shapes(tensors, source, NOT_WHOLE)
    levels = 1 + shapes.count(r"input_blocks\.(\d+)\.0\.op\.")
    stride = shapes.count(r"input_blocks\.(\d+)\.") // levels
    firsts = [f"input_blocks.{1 + level * stride}" for level in range(levels)]
    widths = [shapes.of(f"{first}.0.in_layers.2.weight")[0] for first in firsts]
    channels, channel_mult = multiples(widths, UNET)
    made = shapes.of("out.2.weight")[0]
    depth = lambda place: shapes.count(rf"{re.escape(place)}\.transformer_blocks\.(\d+)\.")  # noqa: E731
    added = tensors.get("label_emb.0.0.weight")
    if (added is None) == (version == "xl") or "label_emb.weight" in tensors:
        raise InputError(
            f"{source} has a U-Net that is told {'nothing' if added is None else 'something'} by label_emb: what is "
            "supported is SDXL with it, and Stable Diffusion 1.x and 2.x without, not their unclip and upscaler models"
        )
    model = ConditionalUNet(
        out_channels=made,
        channels=channels,
        channel_mult=channel_mult,
        num_res_blocks=stride - 1,
        transformer_depth=tuple(depth(f"{first}.1") for first in firsts),
        middle_depth=depth("middle_block.1"),
        num_heads=tuple(8 if version == "1" else max(1, width // HEAD_CHANNELS) for width in widths),
        text_channels=shapes.of("middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
        pooled_channels=None if added is None else added.shape[1] - 6 * conditional_unet.SIZE_CHANNELS,
        concat_channels=shapes.of("input_blocks.0.0.weight")[1] - made,
    )
    is_linear = len(shapes.of("middle_block.1.proj_in.weight")) == 2
    return conditional_unet.config_of(model, linear=is_linear)


def autoencoder(tensors: Tensors, source: str) -> AutoencoderKL:
    """The autoencoder, of its tensors likewise."""
    shapes = Shapes(tensors, source, NOT_WHOLE)
    levels = shapes.count(r"encoder\.down\.(\d+)\.")
    name = "encoder.down.{}.block.0.conv1.weight"
    widths = [shapes.of(name.format(level))[0] for level in range(max(levels, 1))]
    channels, channel_mult = multiples(widths, VAE)
    return AutoencoderKL(
        image_channels=shapes.of("encoder.conv_in.weight")[1],
        latent_channels=shapes.of("decoder.conv_in.weight")[1],
        channels=channels,
        channel_mult=channel_mult,
        num_res_blocks=shapes.count(r"encoder\.down\.0\.block\.(\d+)\."),
        use_quant_conv="quant_conv.weight" in tensors,
    )


def text_config(tensors: Tensors, prefix: str, source: str) -> dict[str, Any]:
    """transformers' config of a text encoder: CLIP by transformers' names, or OpenCLIP's."""
    found, is_open = under(tensors, prefix), prefix.endswith("model.")
    found = found if is_open else clip.as_now(found)
    tokens = "token_embedding.weight" if is_open else "text_model.embeddings.token_embedding.weight"
    places = "positional_embedding" if is_open else "text_model.embeddings.position_embedding.weight"
    shapes = Shapes(found, source, NOT_WHOLE)
    blocks = r"transformer\.resblocks\.(\d+)\." if is_open else r"text_model\.encoder\.layers\.(\d+)\."
    hidden = "transformer.resblocks.0.mlp.c_fc.bias" if is_open else "text_model.encoder.layers.0.mlp.fc1.bias"
    vocab_size, width = shapes.of(tokens)
    is_second = prefix == TEXTS["xl"]["text_encoder_2"]
    model = ClipText(
        vocab_size=vocab_size,
        max_length=shapes.of(places)[0],
        width=width,
        # 2.x reads what goes into the last block.
        num_layers=shapes.count(blocks) - (is_open and not is_second),
        num_heads=max(1, width // HEAD_CHANNELS),
        hidden=shapes.of(hidden)[0],
        activation="gelu" if is_open else "quick_gelu",
        projection=shapes.of("text_projection")[1] if is_second else None,
        eos_token_id=vocab_size - 1,
    )
    return clip.config_of(model)
