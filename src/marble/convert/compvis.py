"""Stable Diffusion as one file, by CompVis' names: 1.x, 2.x and SDXL, as parts by diffusers' names, and back.

    model.diffusion_model.        the U-Net
    first_stage_model.            the autoencoder
    cond_stage_model.             1.x: transformers' CLIP (transformer.); 2.x: OpenCLIP's (model.)
    conditioner.embedders.0, .1   SDXL: one of each

The names of U-Net and autoencoder are told one by one from diffusers', and a file is read by the inverse of that. What
such a file does not say is how many heads there are, which the version does, and in 2.x whether the U-Net predicts
noise or v, which has to be given.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from marble.convert import autoencoder_kl, clip, conditional_unet, files
from marble.convert.names import renamed
from marble.convert.published import multiples
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.clip import ClipText
from marble.models.conditional_unet import ConditionalUNet

logger = logging.getLogger(__name__)

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
SIZES = {"1": 512, "2": 512, "xl": 1024}
HEAD_CHANNELS = 64
"""Of a head: everywhere, but for the U-Net of 1.x, which has 8 heads."""
TEXT_OF_UNET = "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


class Shape(NamedTuple):
    """What names of a network depend on beside the name: its levels, and the residual blocks of each."""

    levels: int
    num_res_blocks: int


def unet_name(name: str, shape: Shape, attends: bool) -> str:
    """CompVis' name of diffusers' in the U-Net; attends is whether the level has transformers."""
    layer, _, leaf = name.rpartition(".")
    if layer in UNET_ENDS:
        return f"{UNET_ENDS[layer]}.{leaf}"
    side, level, part, i, rest = _split(name)
    i, stride = int(i), shape.num_res_blocks + 1
    if side == "mid_block":
        place = f"middle_block.{2 * i + (part == 'attentions')}"
    elif side == "down_blocks":
        place = f"input_blocks.{int(level) * stride + (stride if part == 'downsamplers' else i + 1)}"
    else:
        place = f"output_blocks.{int(level) * stride + (stride - 1 if part == 'upsamplers' else i)}"
    match part:
        case "resnets":
            within, _, leaf = rest.partition(".")
            return f"{place}{'' if side == 'mid_block' else '.0'}.{RESNET[within]}.{leaf}"
        case "attentions":
            return f"{place}{'' if side == 'mid_block' else '.1'}.{rest}"
        case "downsamplers":
            return f"{place}.0.{rest.replace('conv', 'op')}"
    return f"{place}.{1 + attends}.{rest}"


def vae_name(name: str, shape: Shape) -> str:
    """CompVis' name of diffusers' in the autoencoder."""
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return name
    for theirs, there in VAE_PARTS.items():
        rest = re.sub(rf"(^|\.){re.escape(theirs)}\.", rf"\1{there}.", rest)
    if not (found := re.match(r"(down_blocks|up_blocks|mid_block)\.", rest)):
        return f"{half}.{rest}"
    side, level, part, i, rest = _split(rest)
    if side == "mid_block":
        return f"{half}.mid.{'block' if part == 'resnets' else 'attn'}_{int(i) + 1}.{rest}"
    level = int(level) if found[1] == "down_blocks" else shape.levels - 1 - int(level)
    place = f"{half}.{side.removesuffix('_blocks')}.{level}"
    return f"{place}.block.{i}.{rest}" if part == "resnets" else f"{place}.{part.removesuffix('rs')}.{rest}"


def unet_names(config: Mapping[str, Any]) -> dict[str, str]:
    """CompVis' name of each of diffusers', without what is before it in a file, for the U-Net of that config."""
    model, linear = conditional_unet.model_of(config), conditional_unet.uses_linear_projection(config)
    shape = Shape(len(model.channel_mult), model.num_res_blocks)
    names = [entry.theirs for entry in conditional_unet.table(model, linear=linear)]
    depths = list(reversed(model.transformer_depth))
    level = lambda name: int(name.split(".")[1]) if name.startswith("up_blocks.") else 0  # noqa: E731
    return {name: unet_name(name, shape, depths[level(name)] > 0) for name in names}


def vae_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The same of the autoencoder of that config."""
    model = autoencoder_kl.model_of(config)
    shape = Shape(len(model.channel_mult), model.num_res_blocks)
    return {entry.theirs: vae_name(entry.theirs, shape) for entry in autoencoder_kl.table(model)}


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .safetensors file, which the former has within its state_dict."""
    tensors = files.read(path)
    part = "state_dict"
    return files.within(tensors, part, path) if part in files.parts(tensors) else tensors


def version_of(tensors: Tensors, *, source: str = "the file") -> Version:
    """Which Stable Diffusion a file is; InputError, which begins with source, where it is none of the supported."""
    unet = _within(tensors, UNET)
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


def configs_of(
    tensors: Tensors, *, prediction_type: str | None = None, source: str = "the file"
) -> dict[str, dict[str, Any]]:
    """diffusers' configs of unet, vae, the text encoders and the scheduler, read off the shapes.

    prediction_type is epsilon or v_prediction, in diffusers' words; it is needed for 2.x, whose files at 512 pixels
    predict the one, and those at 768 the other, with nothing in them that says so. InputError without it there.
    """
    version = version_of(tensors, source=source)
    if prediction_type is None and version == "2":
        raise InputError(
            f"{source} is Stable Diffusion 2.x, which does not say what its U-Net predicts: give prediction_type, "
            "epsilon for the base models of 512 pixels, v_prediction for those of 768"
        )
    prediction = prediction_type or "epsilon"
    if prediction not in ("epsilon", "v_prediction"):
        raise InputError(f"prediction_type={prediction_type!r} must be epsilon or v_prediction")
    size = 768 if version == "2" and prediction == "v_prediction" else SIZES[version]
    scale = 0.13025 if version == "xl" else 0.18215
    vae = autoencoder_kl.config_of(_autoencoder(_within(tensors, VAE), source), scale=scale, sample_size=size)
    latents = size // 2 ** (len(vae["block_out_channels"]) - 1)
    unet = _unet_config(_within(tensors, UNET), version, source) | {"sample_size": latents}
    scheduler = {
        "_class_name": "EulerDiscreteScheduler" if version == "xl" else "PNDMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "timestep_spacing": "leading",
        "steps_offset": 1,
        **({} if version == "xl" else {"skip_prk_steps": True, "set_alpha_to_one": False}),
    }
    texts = {part: _text_config(tensors, prefix, source) for part, prefix in TEXTS[version].items()}
    return {"unet": unet, "vae": vae, **texts, "scheduler": scheduler}


def parts_of(tensors: Tensors, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """unet, vae and the text encoders of a file, by diffusers' and transformers' names; no number is read.

    configs are those of ``configs_of``. What no network has - the schedule's tables, an average of the parameters -
    is left out, and counted in the log; what the networks should have, and the file has not, ``params_of`` tells of.
    """
    unet, vae = (_inverse(names(configs[part])) for part, names in (("unet", unet_names), ("vae", vae_names)))
    parts = {
        "unet": renamed(_within(tensors, UNET), lambda name: unet.get(name, name)),
        "vae": autoencoder_kl.as_now(renamed(_within(tensors, VAE), lambda name: vae.get(name, name))),
    }
    # Some files have the loss and the averages of the autoencoder's training in it.
    not_read = ("loss.", "model_ema.")
    parts["vae"] = {name: tensor for name, tensor in parts["vae"].items() if not name.startswith(not_read)}
    read = [UNET, VAE]
    for prefixes in TEXTS.values():
        for part, prefix in prefixes.items():
            if part in configs and prefix not in read and any(name.startswith(prefix) for name in tensors):
                parts[part] = _text(tensors, prefix, configs[part])
                read.append(prefix)
    others = [name for name in tensors if not name.startswith(tuple(read))]
    if others:
        averages = sum(name.startswith("model_ema.") for name in others)
        logger.info("%d arrays are not read, %d of them averages of the parameters", len(others), averages)
    return parts


def to_compvis(parts: Mapping[str, Tensors], configs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """The same backwards, of unet, vae and 1.x's text encoder: names and tensors of a file by CompVis' names.

    InputError for the text encoders of 2.x and SDXL, which are OpenCLIP's there: leave them out.
    """
    names = unet_names(configs["unet"]) if "unet" in parts else {}
    for name, tensor in parts.get("unet", {}).items():
        yield UNET + names[name], tensor
    names = vae_names(configs["vae"]) if "vae" in parts else {}
    for name, tensor in parts.get("vae", {}).items():
        is_layer = ".attentions.0.to_" in name and name.endswith(".weight")
        yield VAE + names[name], tensor.reshaped(*tensor.shape, 1, 1) if is_layer else tensor
    is_first = configs.get("unet", {}).get("cross_attention_dim", 768) == 768
    if "text_encoder_2" in parts or ("text_encoder" in parts and not is_first):
        raise InputError(
            "the text encoders of Stable Diffusion 2.x and XL are OpenCLIP's in CompVis' files, and not written: leave "
            "them out"
        )
    for name, tensor in parts.get("text_encoder", {}).items():
        yield TEXTS["1"]["text_encoder"] + name, tensor


def _within(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {there: name for name, there in names.items()}


def _split(name: str) -> tuple[str, str, str, str, str]:
    """(side, level, part, index, the rest) of diffusers' name; the middle has no level."""
    if not name.startswith("mid_block."):
        return tuple(name.split(".", 4))
    side, part, i, rest = name.split(".", 3)
    return side, "", part, i, rest


def _shape(tensors: Tensors, name: str, source: str) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(f"{source} has no {name}: it is no whole Stable Diffusion by CompVis' names")
    return tensors[name].shape


def _count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers stand where the pattern has its group."""
    return len({found[1] for found in (re.match(pattern, name) for name in tensors) if found})


def _unet_config(tensors: Tensors, version: Version, source: str) -> dict[str, Any]:
    levels = 1 + _count(tensors, r"input_blocks\.(\d+)\.0\.op\.")
    stride = _count(tensors, r"input_blocks\.(\d+)\.") // levels
    firsts = [f"input_blocks.{1 + level * stride}" for level in range(levels)]
    widths = [_shape(tensors, f"{first}.0.in_layers.2.weight", source)[0] for first in firsts]
    channels, channel_mult = multiples(widths, UNET)
    made = _shape(tensors, "out.2.weight", source)[0]
    depth = lambda place: _count(tensors, rf"{re.escape(place)}\.transformer_blocks\.(\d+)\.")  # noqa: E731
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
        text_channels=_shape(tensors, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", source)[1],
        pooled_channels=None if added is None else added.shape[1] - 6 * conditional_unet.SIZE_CHANNELS,
        concat_channels=_shape(tensors, "input_blocks.0.0.weight", source)[1] - made,
    )
    is_linear = len(_shape(tensors, "middle_block.1.proj_in.weight", source)) == 2
    return conditional_unet.config_of(model, linear=is_linear)


def _autoencoder(tensors: Tensors, source: str) -> AutoencoderKL:
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    name = "encoder.down.{}.block.0.conv1.weight"
    widths = [_shape(tensors, name.format(level), source)[0] for level in range(max(levels, 1))]
    channels, channel_mult = multiples(widths, VAE)
    return AutoencoderKL(
        image_channels=_shape(tensors, "encoder.conv_in.weight", source)[1],
        latent_channels=_shape(tensors, "decoder.conv_in.weight", source)[1],
        channels=channels,
        channel_mult=channel_mult,
        num_res_blocks=_count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        use_quant_conv="quant_conv.weight" in tensors,
    )


def _text_config(tensors: Tensors, prefix: str, source: str) -> dict[str, Any]:
    """transformers' config of a text encoder: CLIP by transformers' names, or OpenCLIP's."""
    found, is_open = _within(tensors, prefix), prefix.endswith("model.")
    found = found if is_open else clip.as_now(found)
    tokens = "token_embedding.weight" if is_open else "text_model.embeddings.token_embedding.weight"
    places = "positional_embedding" if is_open else "text_model.embeddings.position_embedding.weight"
    blocks = r"transformer\.resblocks\.(\d+)\." if is_open else r"text_model\.encoder\.layers\.(\d+)\."
    hidden = "transformer.resblocks.0.mlp.c_fc.bias" if is_open else "text_model.encoder.layers.0.mlp.fc1.bias"
    vocab_size, width = _shape(found, tokens, source)
    is_second = prefix == TEXTS["xl"]["text_encoder_2"]
    model = ClipText(
        vocab_size=vocab_size,
        max_length=_shape(found, places, source)[0],
        width=width,
        # 2.x reads what goes into the last block.
        num_layers=_count(found, blocks) - (is_open and not is_second),
        num_heads=max(1, width // HEAD_CHANNELS),
        hidden=_shape(found, hidden, source)[0],
        activation="gelu" if is_open else "quick_gelu",
        projection=_shape(found, "text_projection", source)[1] if is_second else None,
        eos_token_id=vocab_size - 1,
    )
    return clip.config_of(model)


def _text(tensors: Tensors, prefix: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    if prefix.endswith("model."):
        return clip.of_open_clip(tensors, clip.model_of(config), prefix=prefix)
    return clip.as_now(_within(tensors, prefix))
