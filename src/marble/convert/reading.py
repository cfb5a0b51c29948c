"""Files that have no config: the architecture is read off the names and shapes of their arrays."""

import re
from typing import NamedTuple

from marble.convert.tensors import Tensors
from marble.errors import InputError


class Shapes(NamedTuple):
    """The arrays of a file, as far as their names and shapes tell of its architecture."""

    tensors: Tensors
    source: str
    """The file, with which errors begin."""
    otherwise: str
    """What the file is where an array is missing: "it is no DiT"."""

    def of(self, name: str) -> tuple[int, ...]:
        """The shape of an array; InputError where it is not there."""
        if name not in self.tensors:
            raise InputError(f"{self.source} has no {name}: {self.otherwise}")
        return self.tensors[name].shape

    def count(self, pattern: str) -> int:
        """How many different numbers stand where the pattern, of a name's beginning, has its group.

        Not the largest of them and one: a file could say any number, and a model of as many layers would be made.
        """
        return len({found[1] for found in (re.match(pattern, name) for name in self.tensors) if found})
