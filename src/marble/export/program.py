"""The whole chain of a pipeline's sampler as one program that jax.export can write: rows and a seed in, images out.

Its weights are arguments, by name, and of all arguments it has those that it reads: the encoder of an autoencoder is
not among them, nor are guidance's numbers where nothing is guided.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from marble.data.preprocess import to_uint8
from marble.errors import InputError
from marble.parallel import ParallelConfig, fetch, in_32_bits
from marble.pipelines import DiffusionPipeline
from marble.pipelines.guidance import Guidance
from marble.pipelines.rows import fitting_batch_size
from marble.pipelines.settings import traced_settings
from marble.typing import ImageSpec, Level

PLATFORMS = ("cpu", "cuda", "tpu")


class Program(NamedTuple):
    """program(weights, arguments) -> {images, floats}, lowered, and what it reads."""

    exported: jax.export.Exported
    weights: dict[str, np.ndarray]
    arguments: dict[str, np.ndarray]
    """Examples of them, by name: ``rows.NAME`` [b ...], ``levels.*`` [N + 1], and single numbers."""


def exported(
    pipe: DiffusionPipeline,
    *,
    platforms: Sequence[str],
    batch_size: int | None = None,
    steps: int | None = None,
    image: ImageSpec | None = None,
    eta: float | None = None,
    **guidance: Any,
) -> Program:
    """The pipeline's sampler, lowered for these platforms, for so many images in a call.

    steps, eta and what guidance says are the examples' alone, for they are arguments. InputError for values out of
    range, or platforms that are none.
    """
    check_platforms(platforms)
    pipe = pipe.on_any_platform()
    image = pipe.image if image is None else image
    one = ParallelConfig().open(jax.devices()[:1])
    size = fitting_batch_size(pipe.config.batch_size if batch_size is None else batch_size, one)
    request, num_steps = pipe.conditioner.examples(size), pipe.num_steps(steps)
    given = {
        "rows": pipe.rows(size, seed=0, request=request, image=image),
        "levels": pipe.grid(num_steps, sampler=pipe.sampler)._asdict(),
        "guidance": pipe.guidance(request, **guidance)._asdict(),
        "sampler": traced_settings(pipe.sampler, eta),
        "seed": np.uint32(0),
        "num_steps": np.int32(num_steps),
    }
    arguments = jax.tree.map(np.asarray, named(given, "."))
    params, tree = jax.tree.flatten(fetch(pipe.all_params(image=image)))
    names = list(named(jax.tree.unflatten(tree, params), "/"))
    weights = dict(zip(names, map(np.asarray, params), strict=True))
    whole = functools.partial(_images, pipe, functools.partial(_nested, given), tree, names)
    return _of_what_is_read(whole, weights, arguments, platforms)


def check_platforms(platforms: Sequence[str]) -> None:
    """InputError unless there is one at least, and all are known."""
    for name in platforms or [""]:
        if name not in PLATFORMS:
            raise InputError(f"--platforms has {name!r}: give some of {','.join(PLATFORMS)}")


def named(tree: Any, separator: str) -> dict[str, Any]:
    """The leaves of a pytree by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=separator): leaf for path, leaf in leaves}


def _nested(like: Any, arguments: Mapping[str, Any]) -> Any:
    """Named arguments as the pytree that they are the leaves of."""
    return jax.tree.unflatten(jax.tree.structure(like), [arguments[name] for name in named(like, ".")])


def _images(pipe: DiffusionPipeline, nested: Any, tree: Any, names: list[str], weights: Any, arguments: Any) -> Any:
    """The program: images uint8 [b h w c], and the same as floats in [-1, 1]."""
    params = jax.tree.unflatten(tree, [weights[name] for name in names])
    given = nested(arguments)
    level, guided = Level(**given["levels"]), Guidance(**given["guidance"])
    rest = given["seed"], level, given["num_steps"], guided, given["sampler"]
    images, _ = pipe.program(params, given["rows"], *rest, num_frames=0, ticking=False)
    return {"images": to_uint8(images, pipe.image.levels), "floats": jnp.clip(images, -1, 1)}


@in_32_bits
def _of_what_is_read(
    whole: Any, weights: dict[str, np.ndarray], arguments: dict[str, np.ndarray], platforms: Sequence[str]
) -> Program:
    """The function, traced once, as a program of the arguments that it reads."""
    traced = jax.jit(whole).trace(weights, arguments)
    closed, results = traced.jaxpr, jax.tree.structure(traced.out_info)
    places = [(0, name) for name in sorted(weights)] + [(1, name) for name in sorted(arguments)]  # as jax flattens
    read = {id(variable) for equation in closed.jaxpr.eqns for variable in equation.invars}
    kept: tuple[dict[str, Any], ...] = ({}, {})
    for variable, (part, name) in zip(closed.jaxpr.invars, places, strict=True):
        if id(variable) in read:
            kept[part][name] = (weights, arguments)[part][name]
    unread = {**weights, **arguments}

    def sampler(weights: Any, arguments: Any) -> Any:
        flat = [(weights, arguments)[part].get(name, unread[name]) for part, name in places]
        return jax.tree.unflatten(results, core.jaxpr_as_fun(closed)(*flat))

    return Program(jax.export.export(jax.jit(sampler), platforms=tuple(platforms))(*kept), *kept)
