"""Values within values, as msgpack's maps and a pickle's dicts are: their tensors by names."""

from collections.abc import Callable, Iterator
from typing import Any

from marble.convert.stored import Stored, shown
from marble.convert.tensors import Tensor
from marble.errors import InputError

DEEPEST = 64
MOST_VALUES = 2_000_000
"""Values of a file, its numbers not counted: more is a way to fill the memory."""
MOST_TENSORS = 200_000
LONGEST_NAME = 500


def named(stored: Stored, tree: Any, made: Callable[[str, Any], Tensor | None]) -> dict[str, Tensor]:
    """The tensors within dicts, lists and tuples by their names, joined by /; what else is there is left out.

    made(name, value) is the tensor of a leaf, or None. InputError where one name is twice, for values that hold
    themselves or repeat (ten lines of a pickle can be 2^60 values), and where there is no tensor.
    """
    found: dict[str, Tensor] = {}
    left = MOST_VALUES
    walks: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter([("", tree)]))]
    while walks:
        within, items = walks[-1]
        for key, value in items:
            left -= 1
            name = f"{within}/{key}" if within else str(key)
            if left < 0 or len(walks) > DEEPEST or len(name) > LONGEST_NAME or len(found) > MOST_TENSORS:
                raise stored.damaged(f"its values repeat or nest without end, as {shown(name)} does")
            if (tensor := made(name, value)) is not None:
                if name in found or not name:
                    raise stored.damaged(f"the name {shown(name)} is no name, or that of two arrays")
                found[name] = tensor
            elif type(value) in (dict, list, tuple):
                walks.append((name, iter(value.items() if type(value) is dict else enumerate(value))))
                break
        else:
            walks.pop()
    if not found:
        raise InputError(f"{stored.path} holds no arrays: give the file of the weights")
    return found
