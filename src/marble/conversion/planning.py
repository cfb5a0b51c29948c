"""What is converted to what: looked at first, all of it, and written then."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from marble import loading
from marble.conversion import file_kinds, files_of_papers, pipeline, rewriting, to_diffusers, to_lora, to_marble
from marble.conversion.writing import Plan, Progress, check_new, in_units, new_folder, size_of_folder, with_article
from marble.convert.folder import CONFIG, read_json
from marble.convert.kinds import kind_of
from marble.convert.pipeline_folder import SCHEDULER
from marble.convert.published import told_of
from marble.errors import InputError
from marble.storage import check_utf8, expanded, is_remote, run_path

logger = logging.getLogger(__name__)

To = Literal["diffusers", "marble", "lora"]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
"""What files can be written in; float16 is for other programs, marble computes in the other two."""
READ_OF = {
    "a run": ("step",),
    "CompVis": ("tokenizer", "prediction_type"),
    "ADM": ("image_size",),
    "DiT": ("vae",),
    "DDPM": ("image_size",),
}
"""The options of each kind of what is converted."""


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: To | None = None,
    dtype: str | None = None,
    step: int | None = None,
    tokenizer: Sequence[str] | None = None,
    vae: str | None = None,
    prediction_type: Literal["eps", "v"] | None = None,
    image_size: int | None = None,
    progress: bool = False,
) -> None:
    """Writes source, in another kind of folder or precision, to the folder out, which is new or empty.

    source is a workdir, a pipeline's or a part's folder of diffusers, or a file of weights. to is what it becomes:
    by default diffusers of a workdir or a part, marble of all else; lora is a run's adapters alone. dtype is that of
    the files, by default the source's; a workdir's own parameters are float32 always. step is a workdir's, by default
    its newest checkpoint.
    tokenizer is the folders of them and prediction_type what is predicted, of a Stable Diffusion by CompVis' names;
    vae the folder of a DiT's autoencoder; image_size the height of images where a file does not say it.
    InputError for what is not supported, and where there is no room; then, as on any failure, nothing is written.
    """
    out = expanded(out)
    if is_remote(out):
        raise InputError(f"--out {out} is in a bucket: give a path of this machine, and copy from there")
    check_utf8("--out", os.path.abspath(out))
    out = Path(out)
    check_new(out)
    options = dict(
        step=step,
        tokenizer=None if tokenizer is None else [Path(expanded(folder)) for folder in tokenizer],
        vae=None if vae is None else Path(expanded(vae)),
        prediction_type=prediction_type,
        image_size=image_size,
    )
    source = _readable(source)
    check_apart(source, out)
    plan = _planned(source, to, _dtype(dtype), options)
    with new_folder(out, plan.size) as folder, Progress(plan.size, is_shown=progress) as bar:
        plan.write(folder, bar)
    logger.info("wrote %s: %s, %s", out, plan.what, in_units(size_of_folder(out)))


def _readable(source: str) -> str:
    """The expanded path of what is converted; InputError for one that libraries in C++ can't open."""
    path = expanded(source)
    if is_remote(path):
        return run_path("--in", path)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(f"--in {shown} has a name that is not UTF-8, and can't be read: rename it") from error
    return path


def check_apart(source: str, out: Path) -> None:
    """InputError where out would lie in the folder that is converted."""
    if not is_remote(source) and Path(source).resolve() in out.resolve().parents:
        raise InputError(f"--out {out} lies in --in {source}, which would be another folder then: give a place outside")


def _dtype(name: str | None) -> Any:
    if name is not None and name not in DTYPES:
        raise InputError(f"--dtype {name} must be one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def _planned(source: str, to: To | None, dtype: Any, options: dict[str, Any]) -> Plan:
    path = Path(source)
    if to == "lora" and not (is_remote(source) or _is_run(path)):
        raise InputError(f"--to lora is for runs that train adapters, and {source} is no run: leave it out")
    if is_remote(source) or _is_run(path):
        _check_options("a run", options)
        if to == "lora":
            return to_lora.plan_of(source, step=options["step"], dtype=dtype)
        if to == "marble":
            raise InputError(f"{source} is a workdir of marble already: leave --to out, or set it to diffusers")
        return pipeline.plan_of(to_diffusers.pipeline_of(source, step=options["step"]).check(), dtype)
    if path.is_file():
        return _of_file(path, to, dtype, options)
    if not path.exists():
        raise InputError(f"--in {source} is not there: give a workdir, a folder of diffusers, or a file of weights")
    _check_options("a folder", options)
    if (halves := rewriting.taesd_files(path)) and not (path / CONFIG).exists():
        return _alone(path, to, "a TAESD") or rewriting.plan_of_taesd(halves, dtype)
    if loading.is_published(source) and not _is_part(path):
        if to == "diffusers":
            return rewriting.plan_of_folder(path, dtype)
        with told_of(path):
            found, described = pipeline.of_folder(path)
            return to_marble.plan_of(to_marble.model_of(found, described), dtype)
    if (path / CONFIG).exists():
        kind = kind_of(read_json(path / CONFIG, ""), source)
        return _alone(path, to, with_article(kind)) or rewriting.plan_of_folder(path, dtype)
    raise InputError(
        f"--in {source} is neither a workdir (config.json, checkpoints) nor a folder of diffusers (model_index.json, "
        "or config.json and weights): give one, or a file of weights"
    )


def _of_file(path: Path, to: To | None, dtype: Any, options: dict[str, Any]) -> Plan:
    file = file_kinds.opened(path)
    _check_options(file.kind, options)
    if to == "diffusers":
        return pipeline.plan_of(files_of_papers.pipeline_of(file, **options).check(), dtype)
    return to_marble.plan_of(files_of_papers.model_of(file, **options), dtype)


def _alone(path: Path, to: To | None, what: str) -> None:
    """InputError where a part is to become a workdir."""
    if to == "marble":
        raise InputError(f"{path} is {what} alone: give the folder of the whole pipeline, or set --to diffusers")


def _is_run(path: Path) -> bool:
    """Whether it has the config.json that a run keeps."""
    if not (path / CONFIG).is_file():
        return False
    return {"config", "data"} <= set(read_json(path / CONFIG, ""))


def _is_part(path: Path) -> bool:
    """Whether it is one network: a UNet2DModel with its scheduler is a whole model, as in the oldest checkpoints."""
    return (
        (path / CONFIG).exists() and not (path / SCHEDULER).exists() and "_class_name" in read_json(path / CONFIG, "")
    )


def _check_options(what: str, options: dict[str, Any]) -> None:
    """InputError for an option that would do nothing."""
    for name, value in options.items():
        if value is not None and name not in READ_OF.get(what, ()):
            raise InputError(f"--{name} is not read of {what}: leave it out")
