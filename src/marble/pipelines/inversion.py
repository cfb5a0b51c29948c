"""From images to the noise that they are made of: ``DiffusionPipeline.invert``."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from marble.errors import InputError
from marble.pipelines.rows import batches, checked_images, fitting_batch_size
from marble.sampling import ODE
from marble.sampling.inversion import invert
from marble.typing import Array

PROGRAMS = 8
"""How many compiled programs are kept: those of the pipelines that were used last."""


def inverted(
    pipe: Any,
    images: np.ndarray,
    request: dict[str, Any],
    *,
    steps: int | None,
    tolerance: float,
    guidance_scale: float | None,
    batch_size: int | None,
    progress: bool,
) -> np.ndarray:
    """The noise x_T [n h w c] of a diffusion pipeline's images; see ``DiffusionPipeline.invert``."""
    if not tolerance > 0:
        raise InputError(f"tolerance={tolerance} must be above 0, such as 1e-6")
    image = pipe.codec_of_images(images).image
    checked = checked_images(images, image)
    of_request = pipe.rows(len(checked), seed=0, request=request, image=image)
    guided = pipe.guidance(request, guidance_scale)
    level = jax.tree.map(lambda table: table[0], pipe.grid(pipe.num_steps(steps)))
    size = fitting_batch_size(pipe.config.batch_size if batch_size is None else batch_size, pipe.mapping)
    rows = {"x_0": pipe.encode(checked, batch_size=batch_size), **of_request}
    program, params, results = _program(pipe), pipe.all_params(image=image), []
    for batch in tqdm(batches(rows, size), total=-(-len(checked) // size), disable=None if progress else True):
        results.append(program(params, pipe.mapping.put(batch), level, guided, np.float32(tolerance)))
    return np.concatenate(results)[: len(checked)]


@functools.lru_cache(maxsize=PROGRAMS)
def _program(pipe: Any) -> Callable[..., Array]:
    """The compiled program: one for any images, steps, guidance and tolerance."""

    def run(params: Any, batch: Any, level: Any, guided: Any, tolerance: Array) -> Array:
        ode = ODE(pipe.schedule_of(params.model), rtol=tolerance, atol=tolerance)
        context = params.conditioner.of_rows(batch)
        return invert(pipe.guided_fn(params, guided, batch), ode, level, batch["x_0"], context=context)

    return pipe.mapping.compile_rows(run)
