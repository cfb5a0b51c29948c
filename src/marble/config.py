"""Config files: finding, completing and comparing them. What they may say is in schema.py.

A config is a Python file with ``get_config(variant=None) -> ConfigDict``.
"""

import runpy
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import ml_collections

from marble.errors import InputError
from marble.schema import nearest, schema
from marble.storage import expanded

MAY_CHANGE = (
    "init_from",
    "init_from_partial",
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
    "optimizer.decay_steps",
    "optimizer.clip_norm",
    "training.ema_warmup",
    "training.num_steps",
    "training.*_every",
    "training.keep_checkpoints",
    "training.keep_every_hours",
    "training.steps_per_call",
    "training.deterministic",
    "sampling",
    "evaluation",
    "parallel",
    "data.source",
    "data.data_dir",
    "autoencoder.cache",
)
"""What may differ when a run goes on; all else makes another run."""


def shipped_configs() -> dict[str, Path]:
    """The configs that come with marble, by name."""
    folder = Path(str(resources.files("marble.configs")))
    files = (path for path in sorted(folder.rglob("*.py")) if path.stem != "__init__")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def load_config(config: str) -> ml_collections.ConfigDict:
    """The config of ``PATH[:variant]``, or of ``NAME[:variant]`` for a shipped one; else InputError."""
    name, _, variant = expanded(config).partition(":")
    shipped = shipped_configs()
    if not Path(name).is_file() and name not in shipped:
        raise InputError(f"no config file {name!r}, and no shipped config of that name{nearest(name, shipped)}")
    path = Path(name) if Path(name).is_file() else shipped[name]
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        found = get_config(*[variant] if variant else []) if get_config else None
    except (Exception, SystemExit) as error:  # a config is the user's program, and can fail in any way
        raise InputError(f"the config {config} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, ml_collections.ConfigDict):
        raise InputError(f"the config {config} has no get_config(variant=None) that returns a ConfigDict")
    return found


def completed(section: Mapping[str, Any], *constructors: Callable[..., Any]) -> ml_collections.ConfigDict:
    """A section with the defaults of all that it does not state, so that a command line can override each.

    None states something where a key's type has it, and its default is something else.
    """
    optional = {
        name: p for constructor in constructors for name, p in schema(constructor).items() if p.default is not p.empty
    }
    are_none = {k for k, p in optional.items() if k in section and section[k] is None and _may_be_none(p.annotation)}
    defaults = {
        name: _placeholder(p.annotation) if p.default is None or name in are_none else p.default
        for name, p in optional.items()
    }
    stated = {k: v for k, v in section.items() if v is not None or k not in defaults}
    return ml_collections.ConfigDict({**defaults, **stated})


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a config by dotted key."""

    def leaves(prefix: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, Mapping | ml_collections.ConfigDict):
                yield from leaves(f"{prefix}{key}.", value)
            else:
                yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value

    return dict(leaves("", config))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(what may not change when a run goes on, what may), each as ``key: old -> new``."""
    before, after = flat(old), flat(new)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    lines = {key: f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed}
    free = [
        key
        for key in changed
        if any(Path(key).match(pattern) or key.startswith(pattern + ".") for pattern in MAY_CHANGE)
    ]
    return [line for key, line in lines.items() if key not in free], [lines[key] for key in free]


def _may_be_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _placeholder(hint: Any) -> Any:
    """A field of a ConfigDict that is None, but knows the type it may get."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return ml_collections.config_dict.placeholder(kinds[0] if isinstance(kinds[0], type) else tuple)
