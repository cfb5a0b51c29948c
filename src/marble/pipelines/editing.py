"""Images made from images by a diffusion model: variations, interpolations, and holes filled in.

Images go in as uint8 0..255 or float32 in [-1, 1], [n h w c], and come out as ``DiffusionPipeline.sample`` gives them,
of the size of those that go in: where the network takes any, that need not be the one it was trained on.
Where latents diffuse, images are encoded first, to the mean, and what is made is decoded. Image i depends on its
input and (seed, i) alone. Strength, steps, seed and resamples are arrays to the compiled
programs, one for each function below and pipeline. guidance_scale and on_step are as in ``DiffusionPipeline.sample``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from marble.data.preprocess import to_uint8
from marble.errors import InputError
from marble.pipelines.denoiser import AllParams
from marble.pipelines.diffusion import DiffusionPipeline
from marble.pipelines.guidance import Guidance
from marble.pipelines.progress import OnStep
from marble.pipelines.rows import batches, checked_images, fitting_batch_size, whole
from marble.sampling import image_keys, sample
from marble.sampling.editing import FromImage, Inpainting
from marble.typing import Array, ImageSpec, Level

PROGRAMS = 8
"""How many compiled programs are kept: those of the pipelines that were used last."""


def edit(
    pipe: DiffusionPipeline,
    images: np.ndarray,
    strength: float,
    *,
    seed: int = 0,
    first: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    as_float: bool = False,
    progress: bool = False,
    on_step: OnStep | None = None,
    **request: Any,
) -> np.ndarray:
    """The images noised, and denoised again (Meng et al. 2022, SDEdit): [n h w c].

    Of the ``steps`` of sampling (default: the pipeline's) the last strength * steps are made, from the image at the
    level of the first of them. 0 gives the images back as they are; 1 is ``pipe.sample``, from pure noise. InputError
    for another strength, or one that makes no step, and for another size.
    """
    checked, image = _checked(pipe, images)
    request_rows = pipe.rows(len(checked), seed=seed, first=first, request=request, image=image)
    guided, grid = pipe.guidance(request, guidance_scale), _grid(pipe, strength, steps)
    if strength == 0:
        return _as_given(_finished(pipe, checked, as_float), images, np.array(True))
    rows = {"x_0": pipe.encode(checked), **request_rows}
    made = _from_images(pipe, image, rows, grid, seed, guided, progress, on_step)
    return _finished(pipe, pipe.decode(made), as_float)


def interpolate(
    pipe: DiffusionPipeline,
    image_a: np.ndarray,
    image_b: np.ndarray,
    *,
    num: int = 9,
    strength: float = 0.5,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    as_float: bool = False,
    progress: bool = False,
    **request: Any,
) -> np.ndarray:
    """num images [num h w c] from image_a to image_b [h w c], mixed at the level of strength (Ho et al. 2020, fig. 8).

    (1 - share) x_t^a + share x_t^b for equally spaced shares is denoised by the same draws. Both x_t have the same
    noise, so a mixture has as much of it as its level says. More strength goes through more different images.
    """
    if whole("num", num) < 2:
        raise InputError(f"{num} images asked for: an interpolation has at least 2, its ends")
    given = [np.asarray(image)[None] for image in (image_a, image_b)]
    (end_a, image), (end_b, image_of_b) = (_checked(pipe, end) for end in given)
    if image != image_of_b:
        raise InputError(f"images of shape {list(image.shape)} and {list(image_of_b.shape)}: give two of one size")
    of_one = pipe.rows(1, seed=seed, request=request, image=image)
    guided, grid = pipe.guidance(request, guidance_scale), _grid(pipe, strength, steps)
    ends = pipe.encode(np.concatenate([end_a, end_b]))
    share = np.linspace(0, 1, num, dtype=np.float32)[:, None, None, None]
    rows = {"x_0": (1 - share) * ends[:1] + share * ends[1:], **{k: v.repeat(num, axis=0) for k, v in of_one.items()}}
    made = _from_images(pipe, image, rows, grid, seed, guided, progress)
    way = _finished(pipe, pipe.decode(made), as_float)
    for end, image in zip((0, num - 1), given, strict=True):
        way[end] = _as_given(way[end], image[0], np.array(strength == 0))
    return way


def inpaint(
    pipe: DiffusionPipeline,
    images: np.ndarray,
    mask: np.ndarray,
    *,
    seed: int = 0,
    first: int = 0,
    steps: int | None = None,
    resamples: int = 10,
    guidance_scale: float | None = None,
    as_float: bool = False,
    progress: bool = False,
    on_step: OnStep | None = None,
    **request: Any,
) -> np.ndarray:
    """The images [n h w c] with the pixels that mask names drawn anew, to fit the others, which stay as they are.

    mask is true (or not 0) where a pixel is to be drawn, [h w] for all images or [n h w]; of latents, those are drawn
    that such a pixel has a part in. Each step is made resamples
    times (Lugmayr et al. 2022, RePaint); 1 is quickest, and fits least. InputError for sizes that don't fit.
    """
    checked, image = _checked(pipe, images)
    if whole("resamples", resamples) < 1:
        raise InputError(f"resamples={resamples} must be at least 1")
    is_known = _known(mask, checked)
    rows = pipe.rows(len(checked), seed=seed, first=first, request=request, image=image)
    grid, count, _ = _grid(pipe, 1.0, steps)
    guided = pipe.guidance(request, guidance_scale)
    x_0 = pipe.encode(checked)
    rows |= {"x_0": x_0, "is_known": _of_latents(is_known, x_0.shape[1:])}
    arguments = (np.uint32(seed), grid, count, guided, np.int32(resamples))
    drawn = pipe.decode(_over_batches(pipe, image, _inpainted, rows, progress, on_step, *arguments))
    filled = _finished(pipe, np.where(is_known, checked, drawn), as_float)
    return _as_given(filled, images, is_known)


def _from_images(
    pipe: DiffusionPipeline,
    image: ImageSpec,
    rows: dict[str, np.ndarray],
    steps: tuple[Level, np.int32, Level],
    seed: int,
    guided: Guidance,
    progress: bool,
    on_step: OnStep | None = None,
) -> np.ndarray:
    grid, count, start = steps
    if count == 0:
        return rows["x_0"]
    return _over_batches(pipe, image, _edited, rows, progress, on_step, np.uint32(seed), grid, count, guided, start)


def _grid(pipe: DiffusionPipeline, strength: float, steps: int | None) -> tuple[Level, np.int32, Level]:
    """The levels of the last steps that strength asks for, padded with clean ones; their number; and the start."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength={strength} must be between 0, the image itself, and 1, pure noise")
    num_steps = pipe.num_steps(steps)
    levels = pipe.grid(num_steps, sampler=pipe.sampler)
    least = 0.5 / num_steps
    count = max(round(strength * num_steps), int(strength >= least))  # half a step is one
    if count == 0 < strength:
        raise InputError(f"strength={strength} of {num_steps} steps makes none: give at least {least:g}, or 0")
    skipped = num_steps - count
    grid = jax.tree.map(lambda table: np.append(table[skipped:], np.repeat(table[-1:], skipped)), levels)
    start = Level(grid.t[0], *np.float32((0, 1) if strength == 1 else (grid.alpha[0], grid.sigma[0])))
    return grid, np.int32(count), start


def _edited(pipe: DiffusionPipeline, batch: Any, start: Level) -> FromImage:
    return FromImage(pipe.sampler, batch["x_0"], start)


def _inpainted(pipe: DiffusionPipeline, batch: Any, resamples: Array) -> Inpainting:
    return Inpainting(pipe.sampler, batch["x_0"], batch["is_known"], resamples)


@functools.lru_cache(maxsize=PROGRAMS)
def _program(pipe: DiffusionPipeline, sampler_of: Callable[..., Any]) -> Callable[..., Array]:
    """The compiled program of one kind of editing."""

    def run(
        params: AllParams,
        batch: Any,
        seed: Array,
        grid: Level,
        num_steps: Array,
        guided: Guidance,
        argument: Any,
        every: Array | None = None,
    ) -> Array:
        return sample(
            pipe.guided_fn(params, guided, batch),
            pipe.watcher.watched(sampler_of(pipe, batch, argument), every, params.codec),
            grid,
            image_keys(seed, batch["index"]),
            params.codec.spec.shape,
            context=params.conditioner.of_rows(batch),
            num_steps=num_steps,
            self_conditioning=pipe.self_conditioning,
            tells_s=pipe.tells_s,
        )

    return pipe.mapping.compile_rows(run)


def _over_batches(
    pipe: DiffusionPipeline,
    image: ImageSpec,
    sampler_of: Callable[..., Any],
    rows: dict[str, np.ndarray],
    progress: bool,
    on_step: OnStep | None,
    *arguments: Any,
) -> np.ndarray:
    """The program over all rows, in batches of the pipeline's size."""
    count, num_steps = len(rows["x_0"]), int(arguments[2])
    program, params = _program(pipe, sampler_of), pipe.all_params(image=image)
    size = fitting_batch_size(pipe.config.batch_size, pipe.mapping)
    if on_step is not None:
        arguments += (on_step.asked(pipe.mapping),)
    results, bar = [], dict(total=-(-count // size), unit="batch", disable=None if progress else True)
    with pipe.watcher.open(on_step, num=count, batch_size=size, num_steps=num_steps) as check:
        for batch in tqdm(batches(rows, size), **bar):
            results.append(program(params, pipe.mapping.put(batch), *arguments))
            check()
    return np.concatenate(results)[:count]


def _checked(pipe: DiffusionPipeline, images: np.ndarray) -> tuple[np.ndarray, ImageSpec]:
    """float32 in [-1, 1], and what they are; or an InputError."""
    if not isinstance(pipe, DiffusionPipeline):
        raise InputError("images are made from images by a diffusion model: this is another")
    image = pipe.codec_of_images(images).image
    return checked_images(images, image), image


def _known(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Where a pixel is known [n h w 1]."""
    mask = np.asarray(mask) != 0
    if mask.shape not in (images.shape[1:3], images.shape[:3]):
        height, width = images.shape[1:3]
        raise InputError(
            f"a mask of shape {list(mask.shape)} for images of {height} x {width}: give [{height} {width}], or one an "
            f"image"
        )
    return np.broadcast_to(~mask, images.shape[:3])[..., None].copy()


def _of_latents(is_known: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Where x_0 of that shape is known [n h' w' 1]: where all of its pixels are."""
    n, h, w, _ = is_known.shape
    height, width, _ = shape
    return is_known.reshape(n, height, h // height, width, w // width, 1).all(axis=(2, 4))


def _as_given(made: np.ndarray, given: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """made, with the pixels that are kept as they were given: uint8 between the levels of the data would be rounded."""
    given = np.asarray(given)
    return np.where(is_kept, given, made) if given.dtype == np.uint8 == made.dtype else made


def _finished(pipe: DiffusionPipeline, images: np.ndarray, as_float: bool) -> np.ndarray:
    return np.clip(images, -1, 1) if as_float else np.array(to_uint8(jnp.asarray(images), pipe.image.levels))
