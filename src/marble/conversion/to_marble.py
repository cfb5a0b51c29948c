"""A published model as a workdir of marble: its config, its parameters as the checkpoint of step 0, its frozen parts.

The checkpoint holds ``ema_params`` alone, which is what samples and what another run begins with.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marble import workdir
from marble.builders import complete
from marble.checkpoint import CheckpointWriter
from marble.conversion.pipeline import Pipeline
from marble.conversion.writing import Plan, Progress, check_part, copy_tokenizer, size_of_part, tracked, write_part
from marble.convert import names
from marble.convert.folder import Part, shapes_of_part
from marble.convert.names import Table
from marble.convert.pipeline_folder import Described
from marble.convert.tensors import Tensors
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.loading import PUBLISHED, TRAINS_NOTHING, images_at_once
from marble.typing import ImageSpec
from marble.workdir import DataFacts


class Denoiser(NamedTuple):
    """The network that denoises, of which no number is read yet."""

    table: Table
    tensors: Tensors
    """By the names of the table."""
    shapes: Any
    """Of our parameters."""
    source: str


class Model(NamedTuple):
    """A model as marble has it: what a workdir is made of."""

    config: Mapping[str, Any]
    """The keys that are known, with {workdir} for its folder."""
    image: ImageSpec
    denoiser: Denoiser
    class_names: Sequence[str] | None = None
    parts: Mapping[str, Part] = {}
    """The networks that are frozen, by the names of their folders."""
    tokenizers: Mapping[str, Path] = {}


def model_of(pipeline: Pipeline, described: Described) -> Model:
    """The model of a pipeline of diffusers."""
    part = pipeline.parts[pipeline.denoiser]
    denoiser = Denoiser(part.table, part.tensors, shapes_of_part(part), str(part.path))
    frozen = {name: other for name, other in pipeline.parts.items() if name != pipeline.denoiser}
    return Model(described.config, described.image, denoiser, described.class_names, frozen, pipeline.tokenizers)


def plan_of(model: Model, dtype: Any) -> Plan:
    """How to write its workdir; dtype is that of the frozen parts' files. InputError for what does not fit."""
    config = completed(model.config, model.image)
    denoiser = model.denoiser
    names.check(denoiser.table, denoiser.tensors, denoiser.shapes, source=denoiser.source)
    for part in model.parts.values():
        check_part(part)
    check_widths(config, model.parts)
    for folder in model.tokenizers.values():
        Tokenizer.open(folder)
    count = sum(math.prod(t.shape) for t in denoiser.tensors.values())

    def write(folder: Path, progress: Progress) -> None:
        for name, part in model.parts.items():
            write_part(folder / name, part, dtype, progress, name)
        for name, source in model.tokenizers.items():
            copy_tokenizer(source, folder / name)
        _save(folder, denoiser, progress)
        facts = DataFacts(model.image, {}, PUBLISHED, model.class_names and tuple(model.class_names))
        workdir.remember(str(folder), config, facts)

    size = 4 * count + sum(size_of_part(part, dtype) for part in model.parts.values())
    return Plan(f"a workdir of marble, with {count:,} parameters in its checkpoint", size, write)


def check_widths(config: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """InputError unless the text encoders say as many channels as the network reads."""
    wanted = config["model"].get("text_channels")
    encoders = {name: part.model.width for name, part in parts.items() if hasattr(part.model, "vocab_size")}
    if wanted is not None and encoders and sum(encoders.values()) != wanted:
        found = " and ".join(f"{name} says {width}" for name, width in encoders.items())
        raise InputError(f"the network reads texts of {wanted} channels, and {found}: they are not of one pipeline")


def completed(found: Mapping[str, Any], image: ImageSpec) -> dict[str, Any]:
    """The complete config of a published model, as ``loading.recalled`` makes it of a folder, for any folder."""
    training = {**TRAINS_NOTHING["training"], **found.get("training", {})}
    sampling = {"batch_size": images_at_once(image), **found["sampling"]}
    given = {"data": {"name": PUBLISHED}, **found, "training": training, "sampling": sampling}
    return complete({**TRAINS_NOTHING, **given}).to_dict()


def _save(folder: Path, denoiser: Denoiser, progress: Progress) -> None:
    """The checkpoint of step 0."""
    progress.part("checkpoint")
    tensors = tracked(denoiser.tensors, np.float32, progress)

    def params() -> Any:
        return names.params_of(denoiser.table, tensors, denoiser.shapes, source=denoiser.source)

    with CheckpointWriter(str(folder)) as writer:
        # Orbax has a copy when save returns: without a name of their own, the parameters are freed while it writes.
        writer.save(0, {"ema_params": params()})
