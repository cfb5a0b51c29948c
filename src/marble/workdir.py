"""What a workdir remembers beside its checkpoints: the config, and what the data set said about its images."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from marble import strict_json
from marble.checkpoint import saved_steps
from marble.config import differences
from marble.data.sources import CONTENT
from marble.errors import InputError
from marble.storage import is_remote, replace_text
from marble.typing import ImageSpec


def config_path(workdir: str) -> epath.Path:
    """Where the config is kept."""
    return epath.Path(workdir) / "config.json"


class DataFacts(NamedTuple):
    """What a run's data set said about itself."""

    image: ImageSpec
    splits: dict[str, int]
    """The number of examples in each split."""
    originals: str
    """What names the originals. Unless it starts with CONTENT, files that were only copied may have another name."""
    class_names: tuple[str, ...] | None = None
    """In the order of the labels; None without classes, and for runs of versions that did not keep them."""


def check(
    workdir: str, config: Mapping[str, Any], data: DataFacts, as_now: Callable[[Any], Any] = lambda kept: kept
) -> list[str]:
    """What changed since the run in workdir began; [] for a new one. Writes nothing.

    as_now makes, of a config that an earlier version kept, the one that this version would keep. InputError when the
    workdir is of another run, with the differences.
    """
    if not config_path(workdir).exists():
        if saved_steps(workdir):
            raise InputError(f"{workdir} has checkpoints but no config.json: restore it, or use another workdir")
        return []
    before, data_before = recall(workdir)
    fixed, changed = differences(as_now(before), config)
    fixed += [f"data: {old} -> {new}" for old, new in zip(data_before[:2], data[:2], strict=True) if old != new]
    if data_before.class_names not in (None, data.class_names):
        fixed.append(f"the classes: {data_before.class_names} -> {data.class_names}")
    if data.originals != data_before.originals:
        proven = all(facts.originals.startswith(CONTENT) for facts in (data, data_before))
        line = f"the files of the data: {data_before.originals} -> {data.originals}"
        fixed, changed = ([*fixed, line], changed) if proven else (fixed, [*changed, line])
    if fixed:
        raise InputError(
            f"{workdir} is of a run with another config; use another workdir, or undo: " + "; ".join(fixed)
        )
    return changed


def remember(workdir: str, config: Mapping[str, Any], data: DataFacts) -> None:
    """Keeps the config and what the data set said."""
    path = config_path(workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"config": config, "data": {**data._asdict(), "image": data.image._asdict()}}
    replace_text(path, strict_json.dumps_config(kept, indent=2) + "\n")


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """A block in which no other process of this machine trains in workdir; InputError when one does.

    The lock goes with the process that holds it, however it ends. Object stores have none.
    """
    if is_remote(workdir):
        yield
        return
    os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, ".lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"the process {file.read().strip() or 'of another user'} trains in {workdir}: wait for it, or stop it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def recall(workdir: str) -> tuple[dict[str, Any], DataFacts]:
    """The config of a workdir, and what its data set said; InputError when it has none."""
    path = config_path(workdir)
    try:
        kept = json.loads(path.read_text())
        if "data" not in kept and {"architectures", "model_type", "_class_name"} & set(kept):
            raise FileNotFoundError
        data = kept["data"]
        image = ImageSpec(shape=tuple(data["image"]["shape"]), levels=data["image"]["levels"])
        names = data.get("class_names")
        facts = DataFacts(image, dict(data["splits"]), data["originals"], None if names is None else tuple(names))
        return dict(kept["config"]), facts
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "its config.json is of a network of another library" if path.exists() else "it has no config.json"
        raise InputError(f"{workdir} is not the workdir of a run: {found}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or use another workdir") from error
