"""What a config may say: its sections are the arguments of functions and classes, whose signatures are the schema.

An unknown key or a wrong type is an InputError that names the key, the value and the nearest valid name.
"""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from marble.errors import InputError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""What a model can compute in."""
MOST_LISTED = 12
"""Names that a message lists; it counts the others."""

SUPPLIED = (
    "parent",
    "out_channels",
    "image_shape",
    "reads_x_0",
    "reads_s",
    "dtype",
    "learning_rate_fn",
    "schedule",
    "t",
)
"""Arguments of constructors that marble supplies itself: no config has them as they are."""


class Section(NamedTuple):
    """A section of a config: the arguments of what it builds."""

    names: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})
    """The keys whose values are names, and what the names stand for; the first is the default."""
    constructors: tuple[Callable[..., Any] | str, ...] = ()
    """Whose arguments the other keys are; a text is a key of ``names``, and stands for what that names."""
    is_optional: bool = False
    """Whether a config may leave it out."""

    def __add__(self, other: "Section") -> "Section":
        """One section that has the keys of both."""
        return Section(
            {**self.names, **other.names},
            (*self.constructors, *other.constructors),
            self.is_optional and other.is_optional,
        )

    def chosen(self, section: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the names in these values of the section stand for, and the rest of them."""
        if not hasattr(values, "keys"):
            raise InputError(f"config key {section}={values!r} must be a section of keys")
        rest = dict(values)
        default = lambda table: next(iter(table))  # noqa: E731
        chosen = {
            key: look_up(f"{section}.{key}", table, rest.pop(key, default(table))) for key, table in self.names.items()
        }
        return chosen, rest

    def resolved(self, chosen: Mapping[str, Any]) -> list[Callable[..., Any]]:
        """The constructors, given what the names stand for."""
        return [chosen[made] if isinstance(made, str) else made for made in self.constructors]

    def keys_for(self, section: str, values: Mapping[str, Any]) -> set[str]:
        """The keys that the constructors read which these values choose."""
        return {key for made in self.resolved(self.chosen(section, values)[0]) for key in schema(made)}


def merged(*parts: Mapping[str, Section]) -> dict[str, Section]:
    """The sections of several parts of an experiment; those of one name become one."""
    sections: dict[str, Section] = {}
    for part in parts:
        for name, section in part.items():
            sections[name] = sections[name] + section if name in sections else section
    return sections


class Reading:
    """A config, checked against sections: what its names stand for, and the arguments of its constructors."""

    def __init__(self, config: Mapping[str, Any], sections: Mapping[str, Section]) -> None:
        self._chosen, self._arguments = {}, {}
        for name, section in sections.items():
            self._chosen[name], rest = section.chosen(name, config.get(name, {}))
            made = section.resolved(self._chosen[name])
            self._arguments[name] = dict(zip(made, bind(name, rest, *made), strict=True))

    def named(self, section: str, key: str) -> Any:
        """What the name at this key stands for."""
        return self._chosen[section][key]

    def arguments(self, section: str, constructor: Callable[..., Any] | str) -> dict[str, Any]:
        """What the section says for this constructor, or for what this key of it names."""
        return self._arguments[section][self._made(section, constructor)]

    def make(self, section: str, constructor: Callable[..., Any] | str, *supplied: Any, **more: Any) -> Any:
        """The constructor called with what the section says for it, and with what is given here."""
        return self._made(section, constructor)(*supplied, **self.arguments(section, constructor), **more)

    def _made(self, section: str, constructor: Callable[..., Any] | str) -> Callable[..., Any]:
        return self.named(section, constructor) if isinstance(constructor, str) else constructor


def bind(section: str, values: Mapping[str, Any], *constructors: Callable[..., Any]) -> list[dict[str, Any]]:
    """The values of a section as arguments of each constructor, checked: unknown, missing, and of wrong type.

    Lists come back as tuples. InputError, naming the key, the value and the nearest valid name.
    """
    schemas = [schema(constructor) for constructor in constructors]
    known = {name: field for fields in schemas for name, field in fields.items()}
    for key, value in values.items():
        if key not in known:
            raise unknown_key(section, key, value, known)
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


def unknown_key(section: str, key: str, value: Any, known: Any) -> InputError:
    """The error for a key that nothing reads."""
    on_one_line = " ".join(repr(value).split())
    return InputError(f"unknown config key {section}.{key}={on_one_line}{nearest(key, known)}")


def schema(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor that a config can give, with their annotations resolved."""
    signature = inspect.signature(constructor, eval_str=True)
    of_flax = ("name",) if "parent" in signature.parameters else ()
    return {name: p for name, p in signature.parameters.items() if name not in (*SUPPLIED, *of_flax)}


def look_up(what: str, table: Mapping[str, Any], name: Any) -> Any:
    """table[name], or an InputError with the nearest name."""
    if not isinstance(name, str) or name not in table:
        raise InputError(f"config key {what}={name!r} is unknown{nearest(name, table)}")
    return table[name]


def nearest(name: str, names: Any) -> str:
    """'; did you mean X?', or the names there are."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f", and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"; there are: {', '.join(names[:MOST_LISTED])}{more}"


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
