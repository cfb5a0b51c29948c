"""Config files: finding them, checking them against the signatures they are for, comparing and keeping them.

A config is a Python file with ``get_config(variant=None) -> ConfigDict``. Its sections are the arguments of functions
and classes, so those signatures are the schema: an unknown key or a wrong type is an error that names the key.
"""

import difflib
import inspect
import runpy
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import ml_collections

from marble.errors import InputError
from marble.storage import expanded

MAY_CHANGE = (
    "training.num_steps",
    "training.*_every",
    "training.keep_checkpoints",
    "training.keep_every_hours",
    "training.steps_per_call",
    "training.deterministic",
    "sampling",
    "parallel",
    "data.source",
    "data.data_dir",
)
"""What may differ when a run goes on; all else makes another run."""

SUPPLIED = ("parent", "out_channels", "image_shape", "reads_x_0", "dtype", "learning_rate_fn", "schedule", "t")
"""Arguments of constructors that marble supplies itself: no config has them as they are."""


def shipped_configs() -> dict[str, Path]:
    """The configs that come with marble, by name."""
    folder = Path(str(resources.files("marble.configs")))
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


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


def bind(section: str, values: Mapping[str, Any], *constructors: Callable[..., Any]) -> list[dict[str, Any]]:
    """The values of a section as arguments of each constructor, checked: unknown, missing, and of wrong type.

    Lists come back as tuples. InputError, naming the key, the value and the nearest valid name.
    """
    schemas = [schema(constructor) for constructor in constructors]
    known = {name: field for fields in schemas for name, field in fields.items()}
    for key, value in values.items():
        if key not in known:
            on_one_line = " ".join(repr(value).split())
            raise InputError(f"unknown config key {section}.{key}={on_one_line}{nearest(key, known)}")
        hint = known[key].annotation
        if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
            words = [str(word) for word in typing.get_args(hint)]
            raise InputError(f"config key {section}.{key}={value!r} is unknown{nearest(value, words)}")
        if not _fits(value, hint):
            wanted = inspect.formatannotation(hint).rpartition("typing.")[2].rpartition("abc.")[2]
            raise InputError(f"config key {section}.{key}={value!r} is {type(value).__name__}, but must be {wanted}")
    for name, field in known.items():
        if field.default is field.empty and name not in values:
            raise InputError(f"the config has no {section}.{name}")
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return [{key: tuples[key] for key in fields if key in tuples} for fields in schemas]


def schema(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor that a config can give, with their annotations resolved."""
    signature = inspect.signature(constructor, eval_str=True)
    of_flax = ("name",) if "parent" in signature.parameters else ()
    return {name: p for name, p in signature.parameters.items() if name not in (*SUPPLIED, *of_flax)}


def completed(section: Mapping[str, Any], *constructors: Callable[..., Any]) -> ml_collections.ConfigDict:
    """A section with the defaults of all that it does not state, so that a command line can override each."""
    defaults = {
        name: _placeholder(p.annotation) if p.default is None else p.default
        for constructor in constructors
        for name, p in schema(constructor).items()
        if p.default is not p.empty
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


def _fits(value: Any, hint: Any) -> bool:
    """Whether a config's value has the type of an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    return isinstance(value, hint)


def _placeholder(hint: Any) -> Any:
    """A field of a ConfigDict that is None, but knows the type it may get."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return ml_collections.config_dict.placeholder(kinds[0] if isinstance(kinds[0], type) else tuple)


def nearest(name: str, names: Any) -> str:
    """'; did you mean X?', or the names there are."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"
