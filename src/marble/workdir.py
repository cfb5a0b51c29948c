"""What a workdir remembers beside its checkpoints: the config, and what the data set said about its images."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from marble.config import differences
from marble.errors import InputError
from marble.pipelines import ImageSpec


def config_path(workdir: str) -> epath.Path:
    """Where the config is kept."""
    return epath.Path(workdir) / "config.json"


def remember(workdir: str, config: Mapping[str, Any], image: ImageSpec) -> list[str]:
    """Keeps config and image kind in workdir, and returns what changed since the run began there.

    InputError when the workdir is of another run, with the differences.
    """
    path = config_path(workdir)
    changed: list[str] = []
    if path.exists():
        before, image_before = recall(workdir)
        fixed, changed = differences(before, config)
        if image_before != image:
            fixed.append(f"data: {image_before} -> {image}")
        if fixed:
            raise InputError(
                f"{workdir} was trained with another config; use another workdir, or undo: " + "; ".join(fixed)
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("config.json.new")
    temporary.write_text(json.dumps({"config": config, "image": image._asdict()}, indent=2) + "\n")
    temporary.replace(path)
    return changed


def recall(workdir: str) -> tuple[dict[str, Any], ImageSpec]:
    """The config and image kind of a workdir; InputError when it has none."""
    path = config_path(workdir)
    try:
        kept = json.loads(path.read_text())
        return kept["config"], ImageSpec(shape=tuple(kept["image"]["shape"]), levels=kept["image"]["levels"])
    except FileNotFoundError as error:
        raise InputError(f"{workdir} is not the workdir of a run: it has no config.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} can't be read: {type(error).__name__}: {error}") from error
