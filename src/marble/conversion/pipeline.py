"""A pipeline as diffusers has it, opened and not read: of a folder of theirs, of a file, or of a run of ours."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marble.conversion.writing import Plan, Progress, check_part, copy_tokenizer, size_of_part, write_part
from marble.convert import pipeline_folder
from marble.convert.folder import CONFIG, Part, open_part, read_json
from marble.convert.kinds import KINDS, kind_of
from marble.convert.pipeline_folder import INDEX, SCHEDULER, Described
from marble.convert.tensors import Tensors

DENOISERS = ("unet", "transformer")
NETWORKS = (*DENOISERS, "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
OF_TRANSFORMERS = ("text_encoder", "text_encoder_2", *TOKENIZERS)
NO_PARTS = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "StableDiffusionXLPipeline": ("feature_extractor", "image_encoder"),
}
"""Parts that a pipeline's class has and need not have."""


class Pipeline(NamedTuple):
    """What is in a pipeline's folder."""

    index: Mapping[str, Any]
    """Their model_index.json."""
    parts: Mapping[str, Part]
    """The networks, by the names of their folders."""
    scheduler: Mapping[str, Any]
    """Their scheduler_config.json."""
    tokenizers: Mapping[str, Path]

    @property
    def denoiser(self) -> str:
        """The name of the network that denoises."""
        return next(name for name in DENOISERS if name in self.parts)

    def check(self) -> "Pipeline":
        """Itself; InputError where weights don't fit their config."""
        for part in self.parts.values():
            check_part(part)
        return self


def part_of(config: Mapping[str, Any], tensors: Tensors, path: Path) -> Part:
    """A network of tensors by its table's names; path is where they lie."""
    kind = kind_of(config, str(path))
    model = KINDS[kind].model(config)
    return Part(model, dict(config), tensors, KINDS[kind].table(model, config), kind, path)


def of_folder(folder: Path) -> tuple[Pipeline, Described]:
    """A published folder, and what it is here; InputError for what is not supported."""
    described = pipeline_folder.described(folder)
    if not (folder / INDEX).exists():
        unet = open_part(folder)
        scheduler = read_json(folder / SCHEDULER, "put it there")
        return Pipeline(
            index_of("DDPMPipeline", {"unet": unet}, scheduler, {}), {"unet": unet}, scheduler, {}
        ), described
    index = pipeline_folder.read_index(folder)
    parts = {name: open_part(index.folder(name)) for name in NETWORKS if name in index.parts}
    tokenizers = {name: index.folder(name) for name in TOKENIZERS if name in index.parts}
    scheduler = read_json(index.folder("scheduler") / SCHEDULER, "put it there")
    return Pipeline(index.config, parts, scheduler, tokenizers), described


def index_of(name: str, parts: Mapping[str, Part], scheduler: Mapping[str, Any], tokenizers: Any) -> dict[str, Any]:
    """The model_index.json of a pipeline of that class."""
    classes = {key: part.kind for key, part in parts.items()} | dict.fromkeys(tokenizers, "CLIPTokenizer")
    classes["scheduler"] = scheduler["_class_name"]
    libraries = {key: "transformers" if key in OF_TRANSFORMERS else "diffusers" for key in classes}
    has_none = {key: [None, None] for key in NO_PARTS.get(name, ())}
    has_none |= {"requires_safety_checker": False} if "safety_checker" in has_none else {}
    named = {key: [libraries[key], kind] for key, kind in classes.items()}
    return {"_class_name": name, **has_none, **named}


def described_of(pipeline: Pipeline) -> Described:
    """What a pipeline is here that lies in no folder of theirs; its denoiser is not to be looked for there."""
    with tempfile.TemporaryDirectory() as made:
        write_configs(Path(made), pipeline)
        for name, part in pipeline.parts.items():
            _write_json(Path(made) / name / CONFIG, part.config)
        return pipeline_folder.described(made)


def write_configs(folder: Path, pipeline: Pipeline) -> None:
    """Writes model_index.json and the scheduler's config."""
    _write_json(folder / INDEX, pipeline.index)
    _write_json(folder / "scheduler" / SCHEDULER, pipeline.scheduler)


def plan_of(pipeline: Pipeline, dtype: Any) -> Plan:
    """How to write it as a folder of theirs."""

    def write(folder: Path, progress: Progress) -> None:
        for name, part in pipeline.parts.items():
            write_part(folder / name, part, dtype, progress, name)
        for name, source in pipeline.tokenizers.items():
            copy_tokenizer(source, folder / name)
        write_configs(folder, pipeline)

    size = sum(size_of_part(part, dtype) for part in pipeline.parts.values())
    return Plan(f"a {pipeline.index['_class_name']} of diffusers", size, write)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
