"""Floating-point operations, as XLA counts them in a program."""

from collections.abc import Callable
from typing import Any

import jax


def of_program(program: jax.stages.Compiled | jax.stages.Lowered) -> float | None:
    """Operations of one call, the body of a loop counted once; None where the compiler does not say."""
    found = (program.cost_analysis() or {}).get("flops")
    return found if found and found > 0 else None


def before_compiling(function: Callable[..., Any], *shapes: Any) -> float | None:
    """Of a function, counted in the program as jax hands it to the CPU's compiler.

    An accelerator's tells nothing before it has compiled, and a GPU's convolutions are then calls of a library, which
    XLA does not count.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return of_program(jax.jit(function).lower(*shapes))


def of_call(compiled: jax.stages.Compiled, function: Callable[..., Any], *shapes: Any) -> float | None:
    """Of a compiled program; of a GPU's, that of the function that it was made of."""
    if jax.default_backend() == "gpu":
        return before_compiling(function, *shapes)
    return of_program(compiled)
