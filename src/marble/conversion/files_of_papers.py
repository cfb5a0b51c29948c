"""The single files that papers' code wrote, as pipelines of diffusers or as models of ours."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marble.conversion import to_marble
from marble.conversion.file_kinds import File
from marble.conversion.pipeline import Pipeline, described_of, index_of, part_of
from marble.conversion.to_marble import Denoiser, Model
from marble.convert import adm, compvis, ddpm, dit, names
from marble.convert.folder import Part, open_part
from marble.convert.kinds import shapes_of
from marble.convert.pipeline_folder import LEVELS, WORKDIR
from marble.convert.pipeline_folder import Denoiser as Described
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.adm import AdmUNet
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.tiny_autoencoder import TinyAutoencoder
from marble.typing import ImageSpec

logger = logging.getLogger(__name__)

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def pipeline_of(file: File, **options: Any) -> Pipeline:
    """The file as a pipeline of diffusers; InputError where there is none like it, or an option is missing."""
    if file.kind == "CompVis":
        return _stable_diffusion(file, options["tokenizer"], options["prediction_type"])
    if file.kind == "DDPM":
        return _ddpm(file, options["image_size"])
    if file.kind == "DiT":
        raise InputError(
            f"{file.path} is a DiT by the paper's names, and diffusers' has other sinusoids of the time and another "
            "epsilon of a LayerNorm: it would answer otherwise there; set --to marble"
        )
    raise InputError(f"{file.path} is a network of {file.kind}, which diffusers does not have: set --to marble")


def model_of(file: File, **options: Any) -> Model:
    """The file as a model of ours; InputError where an option is missing."""
    if file.kind == "ADM":
        return _adm(file, options["image_size"])
    if file.kind == "DiT":
        return _dit(file, options["vae"])
    pipeline = pipeline_of(file, **options)
    return to_marble.model_of(pipeline, described_of(pipeline))


def _stable_diffusion(file: File, tokenizers: Sequence[Path] | None, prediction_type: str | None) -> Pipeline:
    source = str(file.path)
    if prediction_type is None and compvis.version_of(file.tensors, source=source) == "2":
        raise InputError(
            f"{source} is Stable Diffusion 2.x, which does not say what its U-Net predicts: set --prediction_type eps "
            "for the base models of 512 pixels, v for those of 768"
        )
    configs = compvis.configs_of(file.tensors, prediction_type=PREDICTIONS.get(prediction_type), source=source)
    scheduler = configs.pop("scheduler")
    texts = [name for name in configs if name.startswith("text_encoder")]
    if len(tokenizers or ()) != len(texts):
        wanted = "--tokenizer FOLDER" if len(texts) == 1 else "--tokenizer FOLDER,FOLDER_2, one for each text encoder"
        raise InputError(f"{source} has no tokenizer in it: set {wanted}, such as a diffusers folder's tokenizer")
    found = compvis.parts_of(file.tensors, configs)
    parts = {name: part_of(config, found[name], file.path) for name, config in configs.items()}
    folders = dict(zip((name.replace("text_encoder", "tokenizer") for name in texts), tokenizers, strict=True))
    name = f"StableDiffusion{'XL' if len(texts) == 2 else ''}Pipeline"
    return Pipeline(index_of(name, parts, scheduler, folders), parts, scheduler, folders)


def _ddpm(file: File, image_size: int | None) -> Pipeline:
    source = str(file.path)
    if image_size is None:
        raise InputError(f"{source} is a network of DDPM, which does not say its images' height: set --image_size")
    model = ddpm.model_of_tensors(
        file.tensors, image_size, source=source, epsilon=1e-6, time_convention="ddpm", pads_both_sides=False
    )
    channels = file.tensors["conv_in.weight"].shape[1]
    config = ddpm.config_of(model, sample_size=image_size, in_channels=channels)
    empty = part_of(config, {}, file.path)
    shapes, table = shapes_of(model, config, ddpm.NAME), ddpm.original_table(model, image_size)
    names.check(table, file.tensors, shapes, source=source)
    parts = {"unet": empty._replace(tensors=_retold(file.tensors, table, empty.table, shapes))}
    variance = "fixed_large" if image_size == 32 else "fixed_small"
    logger.info(
        "%s: the paper's 1000 steps, beta from 0.0001 to 0.02, and variance_type %s are assumed", source, variance
    )
    scheduler = {
        "_class_name": "DDPMScheduler",
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "variance_type": variance,
        "clip_sample": True,
    }
    return Pipeline(index_of("DDPMPipeline", parts, scheduler, {}), parts, scheduler, {})


def _retold(tensors: Tensors, table: names.Table, other: names.Table, shapes: Any) -> dict[str, Tensor]:
    """The tensors of one table by the names and layouts of another one of the same network."""
    by_ours, ours = {entry.ours: entry for entry in table}, names.flat(shapes)

    def told(entry: names.Entry) -> Tensor:
        before = by_ours[entry.ours]
        tensor = tensors[before.theirs]
        shape = names.shape_of(ours[entry.ours].shape, entry.layout)
        return Tensor(shape, tensor.dtype, lambda: entry.layout.to_theirs(before.layout.to_ours(tensor.read())))

    return {entry.theirs: told(entry) for entry in other}


def _adm(file: File, image_size: int | None) -> Model:
    source = str(file.path)
    found = adm.model_of(file.tensors, image_size=image_size, source=source)
    for sentence in found.assumed:
        logger.info("%s: assumed: %s", source, sentence)
    published = found.published
    if not isinstance(found.model, AdmUNet):
        raise InputError(f"{source} is a classifier that guides another model, and no model of images: give that one")
    if found.model.reads_low_res:
        raise InputError(f"{source} is an upsampler, which reads a small image: marble has no pipeline of it")
    if published is None:
        logger.warning("%s: it is none of the published models: ADM's 1000 steps with linear betas are assumed", source)
        published = adm.Published((), found.model, found.image_size)
    if published.time_scale != 1:
        raise InputError(
            f"{source} is told the step times {published.time_scale:g} (rescale_timesteps of iDDPM): marble tells the "
            "step itself, so that it can't be converted"
        )
    described = Described(found.model, {}, file.path, found.image_channels)
    config = {
        "objective": "diffusion",
        "conditioner": "labels",
        "codec": "identity",
        "model": {"name": "adm", **described.section},
        "diffusion": {**_betas(published), **_predicts(described)},
        "sampling": {"sampler": "ancestral", "clip_sample": True},
    }
    table = adm.table(found.model, found.image_size)
    shapes = adm.shapes_of(found.model, found.image_size, found.image_channels)
    image = ImageSpec((found.image_size, found.image_size, found.image_channels), LEVELS)
    return Model(config, image, Denoiser(table, file.tensors, shapes, source))


def _betas(published: adm.Published) -> dict[str, Any]:
    steps = {"num_train_timesteps": published.num_train_timesteps}
    if published.beta_schedule == "cosine":
        return {"beta_schedule": "squaredcos_cap_v2", **steps}
    scale = 1000 / published.num_train_timesteps
    return {"beta_schedule": "linear", "beta_start": 1e-4 * scale, "beta_end": 0.02 * scale, **steps}


def _predicts(denoiser: Described) -> dict[str, str]:
    return {"prediction_type": "eps", "variance_type": "learned_range" if denoiser.learns_variance else "fixed_small"}


def _dit(file: File, vae: Path | None) -> Model:
    source = str(file.path)
    model = dit.model_of_tensors(file.tensors, source=source)
    channels = file.tensors["x_embedder.proj.weight"].shape[1]
    if vae is None:
        raise InputError(f"{source} is a DiT of latents, with no autoencoder in it: set --vae FOLDER, such as SD's vae")
    part = open_part(vae)
    factor, latents = _latents(part)
    if latents != channels:
        raise InputError(
            f"--vae {vae} makes latents of {latents} channels, and {source} reads {channels}: give another"
        )
    described = Described(model, {}, file.path, channels)
    side = model.grid_size * model.patch_size
    has_classes = model.num_classes is not None
    config = {
        "objective": "diffusion",
        "conditioner": "labels",
        "codec": "autoencoder",
        "autoencoder": {"path": f"{WORKDIR}/vae"},
        "model": {"name": "dit", **described.section},
        "diffusion": {"beta_schedule": "linear", "num_train_timesteps": 1000, **_predicts(described)},
        # As the paper samples; its models are trained without the class a tenth of the time.
        "sampling": {"sampler": "ancestral", "num_steps": 250, "clip_sample": False}
        | ({"guidance_scale": 4.0} if has_classes else {}),
        "training": {"label_dropout": 0.1 if has_classes else 0.0},
    }
    shapes = shapes_of(model, {"sample_size": side, "in_channels": channels}, dit.NAME)
    tensors = dit.unfused(file.tensors, model, source=source)
    denoiser = Denoiser(dit.original_table(model), tensors, shapes, source)
    image = ImageSpec((side * factor, side * factor, part.model.image_channels), LEVELS)
    return Model(config, image, denoiser, parts={"vae": part})


def _latents(part: Part) -> tuple[int, int]:
    """How much smaller an autoencoder's latents are, and their channels."""
    if not isinstance(part.model, AutoencoderKL | TinyAutoencoder):
        raise InputError(f"--vae {part.path.parent} is a {part.kind}, which is no autoencoder")
    levels = part.model.channel_mult if isinstance(part.model, AutoencoderKL) else part.model.num_blocks
    return 2 ** (len(levels) - 1), part.model.latent_channels
