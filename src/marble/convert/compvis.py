"""Stable Diffusion as one file, by CompVis' names: 1.x, 2.x and SDXL, as parts by diffusers' names, and back.

    model.diffusion_model.        the U-Net
    first_stage_model.            the autoencoder
    cond_stage_model.             1.x: transformers' CLIP (transformer.); 2.x: OpenCLIP's (model.)
    conditioner.embedders.0, .1   SDXL: one of each

The names of U-Net and autoencoder are told one by one from diffusers' (``compvis_names``), and a file is read by the
inverse of that. It has no config: the architecture is read off the shapes (``compvis_reading``). What they do not say
is how many heads there are, which the version does, and in 2.x whether the U-Net predicts noise or v, which has to be
given.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from marble.convert import autoencoder_kl, clip, files, open_clip
from marble.convert.compvis_names import unet_names, vae_names
from marble.convert.compvis_reading import TEXTS, UNET, VAE, autoencoder, text_config, unet_config, version_of
from marble.convert.names import renamed
from marble.convert.tensors import Tensor, Tensors, under
from marble.errors import InputError

logger = logging.getLogger(__name__)

SIZES = {"1": 512, "2": 512, "xl": 1024}
"""Sides of the images that each version makes; 2.x has models of 768, too."""


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .safetensors file, which the former has within its state_dict."""
    tensors = files.read(path)
    part = "state_dict"
    return files.within(tensors, part, path) if part in files.parts(tensors) else tensors


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
    vae = autoencoder_kl.config_of(autoencoder(under(tensors, VAE), source), scale=scale, sample_size=size)
    latents = size // 2 ** (len(vae["block_out_channels"]) - 1)
    unet = unet_config(under(tensors, UNET), version, source) | {"sample_size": latents}
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
    texts = {part: text_config(tensors, prefix, source) for part, prefix in TEXTS[version].items()}
    return {"unet": unet, "vae": vae, **texts, "scheduler": scheduler}


def parts_of(tensors: Tensors, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """unet, vae and the text encoders of a file, by diffusers' and transformers' names; no number is read.

    configs are those of ``configs_of``. What no network has - the schedule's tables, an average of the parameters -
    is left out, and counted in the log; what the networks should have, and the file has not, ``params_of`` tells of.
    """
    unet, vae = (_inverse(names(configs[part])) for part, names in (("unet", unet_names), ("vae", vae_names)))
    parts = {
        "unet": renamed(under(tensors, UNET), lambda name: unet.get(name, name)),
        "vae": autoencoder_kl.as_now(renamed(under(tensors, VAE), lambda name: vae.get(name, name))),
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


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {there: name for name, there in names.items()}


def _text(tensors: Tensors, prefix: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    if prefix.endswith("model."):
        return open_clip.of_open_clip(tensors, clip.model_of(config), prefix=prefix)
    return clip.as_now(under(tensors, prefix))
