"""What a table of names is made of, and the two ways to read one.

A table lists every array of an architecture: its path in our parameters, its name in a file of others, and how it is
laid out there. ``params_of`` reads a file by it, ``tensors_of`` writes one; both refuse what is not in the table.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError

MOST_LISTED = 5
"""Differences that an error lists; it counts the others."""


class Layout(NamedTuple):
    """How an array stands in their file: functions of an array, which make views of it."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda a: a, lambda a: a)
DENSE = Layout(lambda a: a.T, lambda a: a.T)
"""[out in] <-> [in out]."""
CONV = Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
"""[out in h w] <-> [h w in out]."""
POINTWISE = Layout(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
"""A 1x1 convolution [out in 1 1] <-> a dense layer [in out]."""
POINTWISE_1D = Layout(lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None])
"""A convolution [out in 1] over a sequence <-> a dense layer [in out]."""


class Entry(NamedTuple):
    """One array: the path ``a/b/kernel`` in our parameters, the name ``a.b.weight`` in their file."""

    ours: str
    theirs: str
    layout: Layout = SAME


Table = Sequence[Entry]


def layer(ours: str, theirs: str, layout: Layout, *, use_bias: bool = True) -> list[Entry]:
    """A layer with a kernel, and a bias."""
    biases = [Entry(f"{ours}/bias", f"{theirs}.bias")] if use_bias else []
    return [Entry(f"{ours}/kernel", f"{theirs}.weight", layout), *biases]


def norm(ours: str, theirs: str) -> list[Entry]:
    """A normalisation with a scale and a bias."""
    return [Entry(f"{ours}/scale", f"{theirs}.weight"), Entry(f"{ours}/bias", f"{theirs}.bias")]


def embedding(ours: str, theirs: str) -> list[Entry]:
    """A table of rows."""
    return [Entry(f"{ours}/embedding", f"{theirs}.weight")]


def attention(
    ours: str,
    theirs: str,
    layers: tuple[str, str, str, str],
    layout: Layout = DENSE,
    *,
    qkv_bias: bool = True,
) -> list[Entry]:
    """The layers of an attention; layers are their names of query, key, value and of what comes after, proj."""
    return [
        entry
        for name, there in zip(("query", "key", "value", "proj"), layers, strict=True)
        for entry in layer(f"{ours}/{name}", f"{theirs}.{there}", layout, use_bias=qkv_bias or name == "proj")
    ]


def within(ours: str, theirs: str, table: Iterable[Entry]) -> list[Entry]:
    """The table of a part, as a part of a whole: its names after ours/ and theirs, which brings its own dot."""
    return [
        Entry(f"{ours}/{entry.ours}" if ours else entry.ours, theirs + entry.theirs, entry.layout) for entry in table
    ]


def flat(params: Any) -> dict[str, Any]:
    """Parameters by their paths ``a/b/kernel``."""
    return traverse_util.flatten_dict(params, sep="/")


def params_of(table: Table, tensors: Tensors, shapes: Any, *, dtype: Any = np.float32, source: str = "the file") -> Any:
    """Our parameters, arrays on the host of that dtype, from a file's tensors.

    shapes is what ``jax.eval_shape`` says of them. InputError, which begins with source, unless the names and the
    shapes are the table's, with what differs, and where a number is none.
    """
    check(table, tensors, shapes, source=source)
    tensors = finite(tensors, source)
    read = {
        ours: np.asarray(layout.to_ours(tensors[theirs].read()), dtype, order="C") for ours, theirs, layout in table
    }
    return traverse_util.unflatten_dict(read, sep="/")


def tensors_of(table: Table, params: Any, *, dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
    """Their names and arrays, one at a time, of our parameters; dtype None keeps that of each."""
    ours = flat(params)
    check_paths(table, ours)
    for path, theirs, layout in table:
        array = layout.to_theirs(np.asarray(jax.device_get(ours[path])))
        yield theirs, np.asarray(array, dtype or array.dtype, order="C")


def check_paths(table: Table, ours: Iterable[str]) -> None:
    """A ValueError, for it is our fault, unless the table has just these paths of our parameters."""
    named, there = [entry.ours for entry in table], set(ours)
    if len(set(named)) != len(named) or set(named) != there:
        raise ValueError(f"the table and the model differ in {sorted(set(named) ^ there)[:MOST_LISTED]}")


def check(table: Table, tensors: Tensors, shapes: Any, *, source: str) -> None:
    """InputError, which begins with source, unless tensors are just the table's, of the model's shapes."""
    ours = flat(shapes)
    check_paths(table, ours)
    expected = {theirs: shape_of(ours[path].shape, layout) for path, theirs, layout in table}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    lines = [
        f"{name} {list(shape)} is not there{_near(name, set(found) - set(expected))}"
        for name, shape in expected.items()
        if name not in found
    ]
    lines += [
        f"{name} is {list(found[name])} and must be {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    lines += [
        f"{name} {list(shape)} is not in this model{_near(name, set(expected) - set(found))}"
        for name, shape in found.items()
        if name not in expected
    ]
    lines += [
        f"{name} is of {tensor.dtype} and must be of floats"
        for name, tensor in tensors.items()
        if name in expected and not is_float(tensor.dtype)
    ]
    if lines:
        raise InputError(f"{source} does not fit its config: {some_of(lines)}")


def is_float(dtype: Any) -> bool:
    """Whether numbers of this type are real and have fractions."""
    return jax.dtypes.issubdtype(dtype, np.floating)


def finite(tensors: Tensors, source: str) -> dict[str, Tensor]:
    """The tensors, each of which is an InputError when it is read where it has NaN or infinity in it."""

    def read(name: str, tensor: Tensor) -> np.ndarray:
        array = tensor.read()
        if is_float(array.dtype) and not np.isfinite(array).all():
            raise InputError(f"{source} has NaN or infinity in {name}: download or copy it again")
        return array

    return {name: t._replace(read=lambda name=name, t=t: read(name, t)) for name, t in tensors.items()}


def some_of(lines: Sequence[str], count: int | None = None) -> str:
    """The first of these lines, and how many more there are of count, which may be more than the lines."""
    count = len(lines) if count is None else count
    more = f"; and {count - MOST_LISTED} more" if count > MOST_LISTED else ""
    return "; ".join(lines[:MOST_LISTED]) + more


def shape_of(ours: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """The shape in their file of an array that has this one here; nothing of that size is made."""
    return layout.to_theirs(np.broadcast_to(np.zeros((), bool), ours)).shape


def renamed(tensors: Tensors, name_of: Callable[[str], str | None]) -> dict[str, Tensor]:
    """The tensors under other names; those whose name becomes None are left out."""
    names = {name: name_of(name) for name in tensors}
    return {new: tensors[old] for old, new in names.items() if new is not None}


def _near(name: str, others: Iterable[str]) -> str:
    """' (nearest: X)' where a name of the others is like it."""
    close = difflib.get_close_matches(name, sorted(others), n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""
