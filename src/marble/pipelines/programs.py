"""The compiled programs of a pipeline, one a sampler."""

import functools
from collections.abc import Callable
from typing import Any

from marble.errors import InputError
from marble.sampling import Sampler

MOST = 8
"""Programs that a pipeline keeps: those of the samplers that were asked for last."""


def no_names(name: str) -> Sampler:
    """For pipelines that were told no samplers' names."""
    raise InputError(f"sampler={name!r} given, but this pipeline knows no names: give a sampler of marble.sampling")


class Programs:
    """A sampler by its name, and its compiled program; a second call compiles nothing."""

    def __init__(
        self, compile_for: Callable[[Sampler], Any], default: Sampler, named: Callable[[str], Sampler] = no_names
    ) -> None:
        self._compile_for, self._default, self._named = compile_for, default, functools.cache(named)
        self._kept: dict[int, tuple[Sampler, Any]] = {}

    def sampler(self, asked: str | Sampler | None) -> Sampler:
        """The one that is asked for, by name or itself; None is the default."""
        if asked is None:
            return self._default
        if isinstance(asked, type) or not (isinstance(asked, str) or hasattr(asked, "step")):
            raise InputError(f"sampler={asked!r} is neither a name nor a sampler: give one, such as 'ddim' or DDIM()")
        return self._named(asked) if isinstance(asked, str) else asked

    def of(self, sampler: Sampler) -> Any:
        """Its program. Samplers are told apart by identity, for their numbers may be arrays."""
        found = self._kept.pop(id(sampler), None) or (sampler, self._compile_for(sampler))
        self._kept[id(sampler)] = found
        if len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]
        return found[1]
