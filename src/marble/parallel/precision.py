"""In how many bits programs compute: the same whether or not JAX_ENABLE_X64 is set.

With it, jax takes every number that has no precision of its own for one of 64 bits: Python's numbers, NumPy's tables,
what optax makes of its counters. They are rounded when they meet parameters of 32 bits, and the last digit of the
result may then be another. So what marble compiles is traced as if JAX_ENABLE_X64 were not set. Only where it is, and
the parameters have 64 bits, are they computed with.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

P, R = ParamSpec("P"), TypeVar("R")


def in_32_bits(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called as if JAX_ENABLE_X64 were not set."""

    @functools.wraps(function)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        with jax.enable_x64(False):
            return function(*arguments, **keywords)

    return called


def in_bits_of_params(function: Callable[..., R]) -> Callable[..., R]:
    """function(params, ...), a whole state too, traced in 32 bits unless an array of params has 64."""

    @functools.wraps(function)
    def traced(params: Any, *rest: Any, **keywords: Any) -> R:
        is_wide = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(params))
        return (function if is_wide else in_32_bits(function))(params, *rest, **keywords)

    return traced
