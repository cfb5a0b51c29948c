"""Images on the way to noise: x_t ~ q(x_t | x_0), and what a trained model takes it for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from marble.data.preprocess import to_uint8
from marble.diffusion import q_sample
from marble.errors import InputError
from marble.pipelines.denoiser import AllParams
from marble.pipelines.diffusion import DiffusionPipeline
from marble.pipelines.rows import checked_images, checked_times, over_batches
from marble.sampling import fold_keys, image_keys, noise_like
from marble.typing import Array, Batch

PROGRAMS = 8
"""How many compiled programs are kept: those of the pipelines that were used last."""


class Noised(NamedTuple):
    """uint8 [n h w c] each."""

    x_t: np.ndarray
    """Brought to the size of images, where alpha² + sigma² is not 1; of latents, decoded."""
    x_0: np.ndarray
    """What the model takes it for, E[x_0 | x_t]: the mean of all images that it may have come from."""


def noised(
    pipe: DiffusionPipeline, images: np.ndarray, t: int | float, *, seed: int = 0, first: int = 0, **request: Any
) -> Noised:
    """The images [n h w c], uint8 or floats in [-1, 1], noised to step t, and denoised at once.

    t is in 0..T-1, or in continuous time in [0, 1]; the noise is that from which ``pipe.sample`` begins image i of the
    run ``seed``. Other steps and seeds are the same program. InputError for values that don't fit.
    """
    if not isinstance(pipe, DiffusionPipeline):
        raise InputError("images are noised for a diffusion model: this is another")
    image = pipe.codec_of_images(images).image
    checked = checked_images(images, image)
    time = checked_times(t, len(checked), pipe.schedule.num_train_timesteps)
    rows = pipe.rows(len(checked), seed=seed, first=first, request=request, image=image)
    rows |= {"x_0": pipe.encode(checked)}
    options = dict(batch_size=min(pipe.config.batch_size, len(checked)), mapping=pipe.mapping)
    return Noised(*over_batches(_program(pipe), pipe.all_params(image=image), rows, np.uint32(seed), time, **options))


@functools.lru_cache(maxsize=PROGRAMS)
def _program(pipe: DiffusionPipeline) -> Callable[..., tuple[Array, Array]]:
    def run(params: AllParams, batch: Batch, seed: Array, t: Array) -> tuple[Array, Array]:
        schedule, x_0 = pipe.schedule_of(params.model), batch["x_0"]
        t = jnp.broadcast_to(t, len(x_0))
        x_t = q_sample(schedule, x_0, t, noise_like(fold_keys(image_keys(seed, batch["index"]), 0), x_0))
        level = schedule.level(t)
        told = params.conditioner.of_rows(batch)
        told = {**told, "x_0": jnp.zeros_like(x_t)} if pipe.self_conditioning else told
        prediction = pipe.clipped_denoise_fn(params.model)(x_t, level, told)
        size = jnp.hypot(level.alpha, level.sigma).reshape(-1, *[1] * (x_t.ndim - 1))
        return tuple(to_uint8(params.codec.decode(x), pipe.image.levels) for x in (x_t / size, prediction.x_0))

    return pipe.mapping.compile_rows(run)
