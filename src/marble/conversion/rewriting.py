"""Folders of diffusers and transformers written anew: safetensors, in one precision; and TAESD's two files as one."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marble.conversion.pipeline import TOKENIZERS, part_of
from marble.conversion.writing import (
    Plan,
    Progress,
    check_part,
    config_in,
    size_of,
    size_of_part,
    tracked,
    with_article,
    write_part,
)
from marble.convert import files, pipeline_folder, taesd
from marble.convert.folder import CONFIG, WEIGHTS, Part, open_part, read_json, read_published, write_tensors
from marble.convert.kinds import KINDS, kind_of
from marble.convert.pipeline_folder import INDEX, SCHEDULER, Index
from marble.convert.tensors import Tensors
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.models.tiny_autoencoder import TinyAutoencoder

logger = logging.getLogger(__name__)

WEIGHT_ENDS = (".safetensors", ".bin", ".msgpack", ".ckpt", ".pt", ".pth", ".h5", ".onnx", ".pb", ".index.json")
"""How names of files end that hold weights, or list them: one file a network is written, and no other copied."""
HALVES = ("encoder", "decoder")


def plan_of_folder(folder: Path, dtype: Any) -> Plan:
    """How to write a pipeline's or a part's folder anew, in a dtype or, with None, in that of each array.

    Networks that marble does not know, as a safety_checker, keep the names of their arrays. InputError for a pipeline,
    or a part given alone, that is not supported.
    """
    if (folder / INDEX).exists():
        index = pipeline_folder.read_index(folder)
        check_whole(index)
        what = f"a {index.name} of diffusers"
    else:
        what = f"{with_article(kind_of(read_json(folder / CONFIG, ''), str(folder)))} of diffusers or transformers"
    networks, copied = _contents(folder)
    parts = {place: _opened(folder / place) for place in networks}
    sizes = [size_of_part(p, dtype) if isinstance(p, Part) else size_of(p, dtype) for p in parts.values()]

    def write(made: Path, progress: Progress) -> None:
        for place in copied:
            (made / place).parent.mkdir(parents=True, exist_ok=True)
            _copy(folder / place, made / place)
        for place, part in parts.items():
            name = part.kind if place == Path() and isinstance(part, Part) else str(place)
            if isinstance(part, Part):
                write_part(made / place, part, dtype, progress, name)
                continue
            progress.part(name)
            config = read_json(folder / place / CONFIG, "")
            write_tensors(made / place, config_in(config, dtype), tracked(part, dtype, progress))

    return Plan(what, sum(sizes) + sum((folder / place).stat().st_size for place in copied), write)


def check_whole(index: Index) -> None:
    """InputError unless every part that a pipeline names is there, networks with weights, tokenizers that open."""
    for name in index.parts:
        folder = index.folder(name)
        if name in TOKENIZERS:
            Tokenizer.open(folder)
        elif name == "scheduler":
            read_published(folder / SCHEDULER, f"{INDEX} names a scheduler, put it there")
        elif not (folder / CONFIG).is_file() or not any((folder / weights).is_file() for weights in WEIGHTS):
            missing = f"{INDEX} names {name}, and {name}/ has no {CONFIG} with weights"
            raise InputError(f"{index.path}: {missing}: download the whole of it")


def _contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """The networks' folders, and the files that are copied, by their paths within it."""
    networks, copied, left = [], [], []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(root).relative_to(folder)
        is_network = CONFIG in names and any(name in names for name in WEIGHTS)
        networks += [place] * is_network
        for name in sorted(names):
            if name.startswith(".") or (is_network and name == CONFIG):
                continue
            (left if name.endswith(WEIGHT_ENDS) else copied).append(place / name)
    loose = [str(path) for path in left if path.parent not in networks]
    if loose:
        logger.info("%s: files of weights beside its parts are not copied: %s", folder, ", ".join(loose))
    return networks, copied


def _opened(folder: Path) -> Part | Tensors:
    """A network; of one that is not known, its tensors."""
    config = read_json(folder / CONFIG, "")
    try:
        is_known = kind_of(config, str(folder)) in KINDS
    except InputError:
        is_known = False
    if is_known:
        part = open_part(folder)
        check_part(part)
        return part
    path = next(folder / name for name in WEIGHTS if (folder / name).exists())
    if path.suffix == ".msgpack":
        raise InputError(f"{path} is a Flax file of a network that marble does not know: remove {folder.name} from it")
    return files.read(path)


def _copy(source: Path, made: Path) -> None:
    """A file; where it is a JSON that names classes of Flax, which diffusers has left, they lose that."""
    if source.name not in (INDEX, SCHEDULER):
        shutil.copyfile(source, made)
        return
    made.write_text(json.dumps(_without_flax(read_json(source, "")), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_flax(config: Mapping[str, Any]) -> dict[str, Any]:
    def named(value: Any) -> Any:
        return value.removeprefix("Flax") if isinstance(value, str) else value

    return {
        key: [named(item) for item in value] if isinstance(value, list) else named(value)
        for key, value in config.items()
    }


def taesd_files(folder: Path) -> dict[str, Path] | None:
    """The two files of a TAESD, by the half that each is; None where they are not there."""
    found = {half: sorted(folder.glob(f"*{half}.safetensors")) + sorted(folder.glob(f"*{half}.pth")) for half in HALVES}
    return {half: paths[0] for half, paths in found.items()} if all(found.values()) else None


def plan_of_taesd(halves: Mapping[str, Path], dtype: Any) -> Plan:
    """How to write the two files of a TAESD as a folder of diffusers."""
    folder = halves["encoder"].parent
    loose = {f"{half}.{name}": t for half, path in halves.items() for name, t in files.read(path).items()}
    tensors, first = taesd.as_now(loose), "decoder.layers.0.weight"
    if first not in tensors:
        raise InputError(f"{halves['decoder']} has no {first}: it is no decoder of a TAESD")
    model = TinyAutoencoder(latent_channels=tensors[first].shape[1])
    part = part_of(taesd.config_of(model), tensors, folder)
    check_part(part)

    def write(made: Path, progress: Progress) -> None:
        write_part(made, part, dtype, progress, part.kind)

    return Plan(f"{with_article(part.kind)} of diffusers", size_of_part(part, dtype), write)
