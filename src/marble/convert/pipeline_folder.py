"""A pipeline's folder, as diffusers writes it: ``model_index.json``, and what it is as a config of ours."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marble.convert import autoencoder_kl, conditional_unet, ddpm, dit, taesd
from marble.convert.folder import CONFIG, config_and_kind, model_of, read_json, read_published
from marble.convert.kinds import Config
from marble.convert.published import side_of, told_of
from marble.convert.scheduler import sections_of
from marble.errors import InputError
from marble.typing import ImageSpec

logger = logging.getLogger(__name__)

INDEX, SCHEDULER = "model_index.json", "scheduler_config.json"
WORKDIR = "{workdir}"
"""Stands for the folder in a described config."""
LEVELS = 256
NOT_READ = ("safety_checker", "feature_extractor", "image_encoder")
NOT_OF_CONFIG = ("out_channels", "dtype", "reads_x_0", "reads_s", "parent", "name")
"""Fields of networks that no config has: they follow from others."""


class Index(NamedTuple):
    """A pipeline's folder: its class, and the class of each part."""

    name: str
    parts: dict[str, str]
    config: dict[str, Any]
    """Their model_index.json."""
    path: Path

    def folder(self, part: str) -> Path:
        """Of a part: the folder of its name or, as in the oldest ones, the pipeline's own; InputError without one."""
        if (self.path / part).is_dir():
            return self.path / part
        if not any((self.path / name).is_file() for name in (CONFIG, SCHEDULER)):
            raise InputError(f"{self.path} has no {part}/, which its {INDEX} names: download the whole of it")
        return self.path


def read_index(folder: str | os.PathLike[str]) -> Index:
    """The model_index.json of a folder; InputError for a pipeline that is not supported."""
    path = Path(folder)
    config = read_published(path / INDEX, "give a folder that diffusers wrote, or download the whole of it")
    name = str(config.get("_class_name")).removeprefix("Flax")
    if name not in PIPELINES:
        why = f" ({UNSUPPORTED[name]})" if name in UNSUPPORTED else ""
        raise InputError(f"{path}: {name} is not supported{why}: what is, is {', '.join(PIPELINES)}")
    named = {key: value for key, value in config.items() if isinstance(value, list) and len(value) == 2}
    parts = {key: str(value[1]).removeprefix("Flax") for key, value in named.items() if value[1] is not None}
    if not any(denoiser in parts for denoiser in ("unet", "transformer")):
        raise InputError(f"{path / INDEX} names no unet and no transformer: download it again")
    return Index(name, {key: kind for key, kind in parts.items() if key not in NOT_READ}, config, path)


def is_one(folder: str | os.PathLike[str]) -> bool:
    """Whether ``described`` has something to describe: a run of ours has a config.json too, but names no class."""
    path = Path(folder)
    if (path / INDEX).exists():
        return True
    return (path / CONFIG).exists() and "_class_name" in read_json(path / CONFIG, "")


class Described(NamedTuple):
    """A folder as a config of ours: the keys that follow from it, with ``{workdir}`` for the folder's name."""

    config: dict[str, Any]
    image: ImageSpec
    class_names: tuple[str, ...] | None
    denoiser: Path
    """The folder of the network that denoises."""


def described(folder: str | os.PathLike[str]) -> Described:
    """What the folder of a pipeline is, or of a UNet2DModel with its scheduler; no weights are read.

    InputError for what is not supported.
    """
    path = Path(folder)
    if not (path / INDEX).exists() and (path / CONFIG).exists():
        kind = config_and_kind(path)[1]
        if kind != ddpm.NAME:
            raise InputError(f"{path} has a {kind} alone: give the folder of the whole pipeline")
        return _unconditional(Index("", {"unet": kind, "scheduler": ""}, {}, path))
    index = read_index(path)
    said = {name: index.config.get(name) for name in NOT_READ}
    not_read = sorted(name for name, part in said.items() if isinstance(part, list) and part and part[-1] is not None)
    if not_read:
        logger.info("%s: not read: %s", path, ", ".join(not_read))
    return PIPELINES[index.name](index)


def denoiser_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder of the network that denoises, of what ``described`` has described."""
    path = Path(folder)
    if not (path / INDEX).exists():
        return path
    index = read_index(path)
    return index.folder("transformer" if "transformer" in index.parts else "unet")


class Denoiser(NamedTuple):
    """The network of a pipeline that denoises, of which no weights are read."""

    model: Any
    config: Config
    folder: Path
    channels: int
    """Of what diffuses."""

    @property
    def section(self) -> dict[str, Any]:
        """Its fields, as a config has them."""
        fields = [field.name for field in dataclasses.fields(self.model) if field.name not in NOT_OF_CONFIG]
        return {name: getattr(self.model, name) for name in fields}

    @property
    def side(self) -> int:
        """Of what diffuses, by its config."""
        with told_of(self.folder / CONFIG):
            return side_of(self.config, self.config.get("_class_name", "a network"))

    @property
    def learns_variance(self) -> bool:
        """Whether it answers with two numbers a channel of what diffuses."""
        return self.model.out_channels == 2 * self.channels


def _text(index: Index) -> Described:
    """Of Stable Diffusion 1.x, 2.x and XL."""
    is_xl = "XL" in index.name
    network = _denoiser(index, "unet", conditional_unet.NAME)
    if network.model.concat_channels:
        raise InputError(
            f"{index.path} is a model for inpainting, whose unet reads {network.channels} channels: its parts are "
            "supported, each by its folder, and the pipeline is not"
        )
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in index.parts]
    if encoders != ["text_encoder", "text_encoder_2"][: 1 + is_xl] or index.config.get("requires_aesthetics_score"):
        raise InputError(
            f"{index.path}: {index.name} with the parts {', '.join(index.parts)} is not supported: what is, is "
            f"{index.name} with text_encoder{' and text_encoder_2' if is_xl else ' alone'}, and no SDXL refiner"
        )
    sections = _sections(index, network)
    # What diffusers' pipelines do with any scheduler: latents are not clipped, and the first version's steps are odd.
    sections["sampling"] |= {"clip_sample": False, "guidance_scale": 5.0 if is_xl else 7.5, "num_steps": 50}
    sections["sampling"] |= {} if is_xl else {"steps_offset": 1}
    text = {
        "encoders": [f"{WORKDIR}/{name}" for name in encoders],
        "tokenizers": [f"{WORKDIR}/{name.replace('text_encoder', 'tokenizer')}" for name in encoders],
        "states": "penultimate" if is_xl else "last",
        "zero_null": is_xl and bool(index.config.get("force_zeros_for_empty_prompt", True)),
    }
    config = _config("text", "conditional_unet", network, sections) | {"text": text}
    return _latent(index, network, config, class_names=None)


def _classes(index: Index) -> Described:
    """Of DiT."""
    network = _denoiser(index, "transformer", dit.NAME)
    sections = _sections(index, network)
    sections["sampling"] |= {"guidance_scale": 4.0, "num_steps": 50}
    # The paper's models are trained without the class a tenth of the time.
    config = _config("labels", "dit", network, sections) | {"training": {"label_dropout": 0.1}}
    return _latent(index, network, config, class_names=_class_names(index, network.model.num_classes))


def _unconditional(index: Index) -> Described:
    """Of a UNet2DModel over pixels."""
    network = _denoiser(index, "unet", ddpm.NAME)
    sections = _sections(index, network)
    if sections["sampling"]["sampler"] != "ancestral":
        sections["sampling"]["num_steps"] = 50
    config = _config("labels", "unet", network, sections) | {"codec": "identity"}
    side = network.side
    return Described(config, ImageSpec((side, side, network.channels), LEVELS), None, network.folder)


PIPELINES: Mapping[str, Callable[[Index], Described]] = {
    "StableDiffusionPipeline": _text,
    "StableDiffusionImg2ImgPipeline": _text,
    "StableDiffusionInpaintPipeline": _text,
    "StableDiffusionXLPipeline": _text,
    "StableDiffusionXLImg2ImgPipeline": _text,
    "StableDiffusionXLInpaintPipeline": _text,
    "DiTPipeline": _classes,
    "DDPMPipeline": _unconditional,
    "DDIMPipeline": _unconditional,
    "PNDMPipeline": _unconditional,
}
UNSUPPORTED = {"LDMPipeline": "its latents are a VQ autoencoder's", "LDMTextToImagePipeline": "of other text encoders"}
"""Why not, of those that look as if they were."""
OWN_SCHEDULER = {"DDIMPipeline": "DDIMScheduler", "PNDMPipeline": "PNDMScheduler"}
"""Pipelines that make this one of whatever scheduler they are given."""


def _config(conditioner: str, name: str, network: Denoiser, sections: Config) -> dict[str, Any]:
    return {
        "objective": "diffusion",
        "conditioner": conditioner,
        "model": {"name": name, **network.section},
        **sections,
    }


def _latent(index: Index, network: Denoiser, config: dict[str, Any], class_names: tuple[str, ...] | None) -> Described:
    """The description with the autoencoder of the latents, which says how large images are."""
    vae, kind = config_and_kind(index.folder("vae"))
    model = model_of(index.folder("vae"), vae, kind)
    levels = {autoencoder_kl.NAME: "channel_mult", taesd.NAME: "num_blocks"}.get(kind)
    if levels is None or model.latent_channels != network.channels:
        latents = "no latents" if levels is None else f"latents of {model.latent_channels} channels"
        raise InputError(f"{index.path}: a vae of the class {kind} with {latents}: {network.channels} channels diffuse")
    side = network.side * 2 ** (len(getattr(model, levels)) - 1)
    config |= {"codec": "autoencoder", "autoencoder": {"path": f"{WORKDIR}/vae"}}
    return Described(config, ImageSpec((side, side, model.image_channels), LEVELS), class_names, network.folder)


def _denoiser(index: Index, part: str, expected: str) -> Denoiser:
    folder = index.folder(part)
    config, kind = config_and_kind(folder)
    if kind != expected:
        raise InputError(f"{folder}: {kind} is not supported in {index.name}: what is, is {expected}")
    model = model_of(folder, config, kind)
    channels = config.get("in_channels", 3 if kind == ddpm.NAME else 4) - getattr(model, "concat_channels", 0)
    if model.out_channels not in (channels, 2 * channels):
        raise InputError(f"{folder}: in_channels={channels} and out_channels={model.out_channels} is not supported")
    return Denoiser(model, config, folder, channels)


def _sections(index: Index, network: Denoiser) -> dict[str, dict[str, Any]]:
    """diffusion and sampling, by the scheduler; InputError where it and the network differ in what is learned."""
    path = index.folder("scheduler") / SCHEDULER
    config = read_published(path, "it says what the network was trained for; put it there")
    config |= {"_class_name": OWN_SCHEDULER[index.name]} if index.name in OWN_SCHEDULER else {}
    with told_of(path):
        sections = sections_of(config)
    if network.learns_variance:
        sections["diffusion"]["variance_type"] = "learned_range"
    elif sections["diffusion"]["variance_type"] == "learned_range":
        raise InputError(
            f"{path}: variance_type='learned_range' needs a network of {2 * network.channels} out_channels, and "
            f"{network.folder} has {network.model.out_channels}"
        )
    return sections


def _class_names(index: Index, num_classes: int) -> tuple[str, ...] | None:
    """By id2label of the index; None where it has not one name a class."""
    names = index.config.get("id2label")
    if not names:
        return None
    found = tuple(str(names.get(str(i))) for i in range(num_classes))
    if len(names) != num_classes or "None" in found:
        logger.warning(
            "%s: id2label does not name the classes 0 to %d: classes have numbers", index.path, num_classes - 1
        )
        return None
    return found
