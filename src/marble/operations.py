"""The operations of a pipeline's sampler as they are handed to a compiler: those of a step, and those done once.

The compiler's own count is of the whole program: it can't tell an autoencoder's decoder from a step of the loop, and of
a sampler that begins in another way than it goes on it counts both ways in every step.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marble.parallel import in_32_bits
from marble.sampling import image_keys, sample
from marble.typing import DenoiseFn


class Operations(NamedTuple):
    """Of one call, on all devices."""

    step: float
    """Of a step of the loop, on average."""
    once: float
    """Of the encoders of what is asked for and of the decoder, which come before and after the steps."""


@in_32_bits
def operations(pipeline: Any, params: Any) -> Operations:
    """Those of a ``DiffusionPipeline``, for shapes of parameters of a mesh; only a loop of nothing is compiled."""
    all_params, rows, _, grid, num_steps, guided, _ = pipeline.call_shapes(params)
    platform = pipeline.mapping.devices[0].platform
    x = jax.ShapeDtypeStruct((*rows["index"].shape, *pipeline.codec.spec.shape), np.float32)
    level = jax.tree.map(lambda table: table[0], grid)

    def told(all_params: Any, rows: Any) -> Any:
        conditioner = all_params.conditioner
        return conditioner.of_rows(rows), conditioner.null_of_rows(rows) if conditioner.has_null else None

    def asked(all_params: Any, rows: Any, x: Any, level: Any, guided: Any) -> Any:
        """Told, and one answer of the denoiser."""
        return _asked_once(pipeline).guided_fn(all_params, guided, rows)(x, level, told(all_params, rows)[0])

    encoders, _ = _counted(told, platform, all_params, rows)
    answer, prediction = _counted(asked, platform, all_params, rows, x, level, guided)
    decoder, _ = _counted(lambda p, x: p.codec.decode(x), platform, all_params, x)
    calls = num_calls(pipeline.sampler, grid, int(num_steps), x.shape[1:], prediction)
    return Operations((answer - encoders) * calls / int(num_steps), encoders + decoder)


def num_calls(sampler: Any, grid: Any, num_steps: int, shape: tuple[int, ...], prediction: Any) -> int:
    """How often a sampler asks its denoiser, by letting it walk its grid with one that answers zeros.

    prediction has the shapes of an answer, for any number of images.
    """
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    def denoise_fn(x_t: Any, level: Any, context: Any = None) -> Any:
        jax.debug.callback(tick)
        return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), prediction)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        keys = image_keys(np.uint32(0), np.zeros(1, np.uint32))
        jax.jit(lambda keys: sample(denoise_fn, sampler, grid, keys, shape, num_steps=num_steps))(keys)
        jax.effects_barrier()
    return count


def _asked_once(pipeline: Any) -> Any:
    """A copy of the pipeline with a denoiser that answers the same question but once, as it will be when compiled.

    Guidance asks one of them twice.
    """

    def denoise_fn(params: Any) -> DenoiseFn:
        answers, ask = {}, pipeline.denoise_fn(params)

        def asked(*question: Any) -> Any:
            leaves = jax.tree.leaves(question)
            key = tuple(map(id, leaves))
            if key not in answers:
                answers[key] = ask(*question), leaves  # which are kept, or others could get their ids
            return answers[key][0]

        return asked

    copied = copy.copy(pipeline)
    copied.denoise_fn = denoise_fn
    return copied


def _counted(function: Callable[..., Any], platform: str, *arguments: Any) -> tuple[float, Any]:
    """The operations of a function before it is compiled for one device of that platform; the shapes of its result."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), arguments)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        traced = jax.jit(function).trace(*shapes)
        counts = traced.lower(lowering_platforms=(platform,)).cost_analysis()
    return (counts or {}).get("flops", 0.0), traced.out_info
