"""What a workdir remembers beside its checkpoints: the config, and what the data set said about its images."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from marble.checkpoint import saved_steps
from marble.config import differences
from marble.errors import InputError
from marble.pipelines import ImageSpec


def config_path(workdir: str) -> epath.Path:
    """Where the config is kept."""
    return epath.Path(workdir) / "config.json"


def check(workdir: str, config: Mapping[str, Any], image: ImageSpec, splits: Mapping[str, int]) -> list[str]:
    """What changed since the run in workdir began; [] for a new one. Writes nothing.

    InputError when the workdir is of another run, with the differences.
    """
    if not config_path(workdir).exists():
        if saved_steps(workdir):
            raise InputError(f"{workdir} has checkpoints but no config.json: restore it, or use another workdir")
        return []
    before, image_before, splits_before = _read(workdir)
    fixed, changed = differences(before, config)
    fixed += [
        f"data: {old} -> {new}" for old, new in ((image_before, image), (splits_before, dict(splits))) if old != new
    ]
    if fixed:
        raise InputError(
            f"{workdir} is of a run with another config; use another workdir, or undo: " + "; ".join(fixed)
        )
    return changed


def remember(workdir: str, config: Mapping[str, Any], image: ImageSpec, splits: Mapping[str, int]) -> None:
    """Keeps the config, the kind of image and the number of examples in each split."""
    path = config_path(workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("config.json.new")
    kept = {"config": config, "image": image._asdict(), "splits": dict(splits)}
    temporary.write_text(json.dumps(kept, indent=2) + "\n")
    temporary.replace(path)


def recall(workdir: str) -> tuple[dict[str, Any], ImageSpec]:
    """The config and kind of image of a workdir; InputError when it has none."""
    config, image, _ = _read(workdir)
    return config, image


def _read(workdir: str) -> tuple[dict[str, Any], ImageSpec, dict[str, int]]:
    path = config_path(workdir)
    try:
        kept = json.loads(path.read_text())
        image = ImageSpec(shape=tuple(kept["image"]["shape"]), levels=kept["image"]["levels"])
        return dict(kept["config"]), image, dict(kept["splits"])
    except FileNotFoundError as error:
        raise InputError(f"{workdir} is not the workdir of a run: it has no config.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or use another workdir") from error
