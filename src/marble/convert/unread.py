"""Frozen networks' parameters: read, or within ``unread()`` no more than their shapes, for those who only plan."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from marble.convert.folder import Part, params_of_part, shapes_of_part
from marble.convert.names import check

_IS_UNREAD: ContextVar[bool] = ContextVar("is_unread", default=False)


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """A block in which ``frozen_params`` reads no weights: each array is one zero, seen from every place of it."""
    token = _IS_UNREAD.set(True)
    try:
        yield
    finally:
        _IS_UNREAD.reset(token)


def frozen_params(part: Part, dtype: Any) -> Any:
    """The parameters of a network that is not trained, held in dtype; InputError where the weights don't fit it."""
    if not _IS_UNREAD.get():
        return params_of_part(part, dtype)
    shapes = shapes_of_part(part)
    check(part.table, part.tensors, shapes, source=str(part.path))
    zero = np.zeros((), dtype)
    return jax.tree.map(lambda leaf: np.broadcast_to(zero, leaf.shape), shapes)
