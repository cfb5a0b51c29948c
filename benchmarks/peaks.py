"""What the machine can do at most, by measuring: products of matrices, and copies."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from marble.parallel import compiler_options

PRODUCTS = 10
"""In one program: one alone would be as long as its call."""


def matrix_peak(dtype: str, size: int) -> float:
    """Operations a second of products of square matrices in jax's default precision, by the best of XLA's options."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32).astype(dtype)
    scale = jnp.asarray(size**-0.5, dtype)

    def chained(a: Any) -> Any:
        b = a
        for _ in range(PRODUCTS):  # not a loop of XLA's, which would be another path on the CPU
            b = (a @ b) * scale
        return b

    ways = [{}, compiler_options(gradients=True), compiler_options(gradients=False)]
    programs = [jax.jit(chained, compiler_options=way) for way in ways if way or way is ways[0]]
    seconds = min(median_seconds(lambda run=run: run(a)) for run in programs)
    return PRODUCTS * 2 * size**3 / seconds


def default_size(smoke: bool) -> int:
    """Of the matrices: large enough that an accelerator is busy, and a CPU done in seconds."""
    if smoke:
        return 256
    return 1536 if jax.default_backend() == "cpu" else 8192


def bandwidth(count: int) -> float:
    """Bytes a second, read and written, of y = 2 x + y."""
    x, y = jnp.ones(count, jnp.float32), jnp.ones(count, jnp.float32)
    add = jax.jit(lambda x, y: 2 * x + y)
    return 3 * x.nbytes / median_seconds(lambda: add(x, y))


def median_seconds(call: Callable[[], Any], *, repeats: int = 5, calls: int = 1) -> float:
    """The median time of a call, of so many in a row; the first two rows are not counted."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / calls)
    return statistics.median(times[2:])
