"""A run of marble as a pipeline of diffusers, or an error that names what diffusers does not have."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marble import loading
from marble.conversion.pipeline import Pipeline, index_of, part_of
from marble.convert import autoencoder_kl, bert, clip, conditional_unet, ddpm, dit, names
from marble.convert.folder import Part, open_part
from marble.convert.names import Table
from marble.convert.scheduler import scheduler_of
from marble.convert.tensors import Tensor
from marble.errors import InputError
from marble.models.bert import Bert
from marble.models.clip import Clip

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
WIDTH_OF_2 = 1024
"""The text of Stable Diffusion 2.x, whose transformers begin and end with linear layers, as those of SDXL."""
CLASSES_OF_DIT = 1000
"""DiTPipeline takes this number for no class, whatever the network's is."""
PUBLISHED_BY_RUNS = {"autoencoder": "vae", "clip": "clip"}
"""The folders that runs of these objectives leave when they end."""
SCALES_INPUT = ("euler", "heun")
"""Samplers whose schedulers begin with other noise than DiTPipeline gives them."""


def pipeline_of(workdir: str, *, step: int | None = None) -> Pipeline:
    """The pipeline of a run, with the averaged parameters of a step; InputError for what diffusers does not have."""
    config, data = loading.recalled(workdir)
    make = _maker(config, data.image.shape)
    _warn_of_steps(config["sampling"])
    scheduler_of(config)
    step, experiment, params = loading.load_params(workdir, step=step)
    logger.info("the averaged parameters of step %d of %s", step, workdir)
    model = experiment.objective.model
    del experiment  # and the frozen parts, which are read from their folders
    pipeline = make(config, data, model, params, Path(workdir) / "checkpoints" / str(step))
    if data.class_names and "transformer" in pipeline.parts:
        return pipeline._replace(index={**pipeline.index, "id2label": dict(enumerate(data.class_names))})
    return pipeline


def _maker(config: Config, shape: tuple[int, int, int]) -> Callable[..., Pipeline]:
    """What makes the pipeline of a config; InputError where diffusers has none like it."""
    named = {
        "objective": config["objective"],
        "model.name": config["model"]["name"],
        "codec": config.get("codec"),
        "conditioner": config.get("conditioner"),
    }
    if named["objective"] in PUBLISHED_BY_RUNS:
        raise InputError(
            f"a run of objective={named['objective']!r} is no pipeline of diffusers: its network is in the workdir's "
            f"folder {PUBLISHED_BY_RUNS[named['objective']]}, as that and transformers read it"
        )
    if named["objective"] != "diffusion":
        raise _unknown("objective", named["objective"])
    if named["model.name"] not in MAKERS:
        raise _unknown("model.name", named["model.name"])
    codec, make = MAKERS[named["model.name"]]
    if named["codec"] != codec:
        raise InputError(
            f"diffusers has no pipeline of model.name={named['model.name']!r} with codec={named['codec']!r}: "
            f"it has one with {codec!r}"
        )
    if config["training"].get("self_conditioning"):
        raise _unknown("training.self_conditioning", True)
    if named["model.name"] != "unet" and shape[0] != shape[1]:
        raise _unknown("images of the shape", shape)
    return make


def _warn_of_steps(sampling: Config) -> None:
    """A warning where diffusers' DDIM goes to other times than ours: from t to t - T // N, whatever its grid is."""
    spacing = sampling.get("timestep_spacing")
    if sampling.get("sampler") == "ddim" and spacing == "linspace":
        logger.warning(
            "diffusers' DDIM steps down by T // N, which is not the grid of timestep_spacing='linspace': its pictures "
            "are near ours, and with 'trailing' or 'leading' the same"
        )


def _unknown(key: str, value: Any) -> InputError:
    return InputError(f"diffusers has no {key}={value!r}: this run can't be converted, only used with marble")


def _pixels(config: Config, data: Any, model: Any, params: Any, path: Path) -> Pipeline:
    """Of a U-Net over pixels."""
    height, width, channels = data.image.shape
    theirs = ddpm.config_of(model, sample_size=height, in_channels=channels)
    theirs |= {} if height == width else {"sample_size": [height, width]}
    if model.num_classes is not None:
        logger.warning("diffusers' pipelines of pixels give no labels: call the unet itself with class_labels")
    table = ddpm.table(model, height)
    learned, asked = _learned(config), config["sampling"]["sampler"]
    if asked not in ("ancestral", "ddim") or (learned and asked != "ancestral"):
        taken = "ancestral" if learned else "ddim"
        logger.warning("diffusers' pipelines of pixels don't sample by %s with this network: %s is told", asked, taken)
        asked = taken
    told = {"sampler": asked, **({"variance_type": learned} if learned else {})}
    scheduler = scheduler_of({**config, "sampling": {**config["sampling"], **told}})
    part = _held(model, theirs, ddpm.NAME, table, params, path)
    name = "DDIMPipeline" if scheduler["_class_name"] == "DDIMScheduler" else "DDPMPipeline"
    return _pipeline(name, {"unet": part}, scheduler, {})


def _classes(config: Config, data: Any, model: Any, params: Any, path: Path) -> Pipeline:
    """Of a DiT."""
    vae = _vae(config)
    side = data.image.shape[0] // _factor(vae)
    channels = vae.model.latent_channels
    theirs = dit.config_of(model, in_channels=channels, sample_size=side)
    if model.num_classes != CLASSES_OF_DIT:
        logger.warning(
            "diffusers' DiTPipeline takes the label %d for none, and it is %d here: guide with marble, or sample with "
            "guidance_scale=1",
            *(CLASSES_OF_DIT, model.num_classes),
        )
    asked = config["sampling"]["sampler"]
    if asked.startswith(SCALES_INPUT) or (_learned(config) and asked == "ancestral"):
        logger.warning("diffusers' DiTPipeline does not sample by %s with this network: ddim is told", asked)
        asked = "ddim"
    scheduler = scheduler_of({**config, "sampling": {**config["sampling"], "sampler": asked}})
    part = _held(model, theirs, dit.NAME, dit.table(model), params, path)
    return _pipeline("DiTPipeline", {"transformer": part, "vae": vae}, scheduler, {})


def _text(config: Config, data: Any, model: Any, params: Any, path: Path) -> Pipeline:
    """Of Stable Diffusion 1.x, 2.x and XL."""
    is_xl = model.pooled_channels is not None
    words = config["text"]
    wanted = {
        "the number of text.encoders": (len(words["encoders"]), 1 + is_xl),
        "text.states": (words["states"], "penultimate" if is_xl else "last"),
        "text.zero_null": (bool(words["zero_null"]), bool(words["zero_null"]) and is_xl),
    }
    name = "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline"
    for key, (found, theirs) in wanted.items():
        if found != theirs:
            raise InputError(f"diffusers' {name} has {key}={theirs!r}, and this run {found!r}: it can't be converted")
    vae = _vae(config)
    side = data.image.shape[0] // _factor(vae)
    is_linear = is_xl or model.text_channels == WIDTH_OF_2
    theirs = conditional_unet.config_of(model, sample_size=side, linear=is_linear)
    unet = _held(model, theirs, conditional_unet.NAME, conditional_unet.table(model, linear=is_linear), params, path)
    ends = ("", "_2")[: 1 + is_xl]
    encoders = {
        f"text_encoder{end}": _encoder(folder, projects=end == "_2")
        for end, folder in zip(ends, words["encoders"], strict=True)
    }
    tokenizers = {f"tokenizer{end}": Path(folder) for end, folder in zip(ends, words["tokenizers"], strict=True)}
    made = _pipeline(name, {"unet": unet, "vae": vae, **encoders}, scheduler_of(config), tokenizers)
    zeros = {"force_zeros_for_empty_prompt": bool(words["zero_null"])} if is_xl else {}
    return made._replace(index={**made.index, **zeros})


MAKERS: Mapping[str, tuple[str, Callable[..., Pipeline]]] = {
    "unet": ("identity", _pixels),
    "conditional_unet": ("autoencoder", _text),
    "dit": ("autoencoder", _classes),
}
"""By model.name, the codec that diffusers has with it, and what makes the pipeline."""


def _pipeline(name: str, parts: Mapping[str, Part], scheduler: Config, tokenizers: Mapping[str, Path]) -> Pipeline:
    return Pipeline(index_of(name, parts, scheduler, tokenizers), parts, scheduler, tokenizers)


def _held(model: Any, config: Config, kind: str, table: Table, params: Any, path: Path) -> Part:
    """The network of parameters in memory."""
    ours = {place: np.asarray(array) for place, array in names.flat(params).items()}
    names.check_paths(table, ours)

    def tensor(array: np.ndarray, layout: names.Layout) -> Tensor:
        read = lambda: np.ascontiguousarray(layout.to_theirs(array))  # noqa: E731
        return Tensor(names.shape_of(array.shape, layout), array.dtype, read)

    return Part(model, dict(config), {e.theirs: tensor(ours[e.ours], e.layout) for e in table}, table, kind, path)


def _vae(config: Config) -> Part:
    """The autoencoder, told the scale that the run had."""
    words = config["autoencoder"]
    part = open_part(words["path"])
    scale = {} if words.get("scale") is None else {"scaling_factor": words["scale"]}
    return part._replace(config={**part.config, **scale})


def _factor(vae: Part) -> int:
    levels = vae.model.channel_mult if vae.kind == autoencoder_kl.NAME else vae.model.num_blocks
    return 2 ** (len(levels) - 1)


def _encoder(folder: str, *, projects: bool) -> Part:
    """A text encoder: CLIP's, which may be the half of a whole CLIP.

    diffusers reads a class's first output: of one with a projection that is a vector, which the second of SDXL's gives,
    and of one without the states of all tokens.
    """
    part = open_part(folder)
    if isinstance(part.model, Bert):
        raise InputError(f"{folder} is a {bert.__name__.rpartition('.')[2]}: diffusers' pipelines have CLIP's encoders")
    model = part.model.text if isinstance(part.model, Clip) else part.model
    wanted = model if projects else model.clone(projection=None)
    if wanted is part.model or wanted == part.model:
        return part
    named = {entry.theirs for entry in clip.text(wanted)}
    tensors = {name: tensor for name, tensor in part.tensors.items() if name in named}
    return part_of(clip.config_of(wanted), tensors, part.path)


def _learned(config: Config) -> str | None:
    """The variance that the network learns."""
    found = config["diffusion"]["variance_type"]
    return found if found.startswith("learned") else None
