"""The images of a run as rows of batches of one size: what the pipelines share."""

import difflib
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from marble.errors import InputError
from marble.parallel import DeviceMapping
from marble.typing import Array, ImageSpec

MOST_SEED = 2**32 - 1


def image_indices(num: int, *, seed: int, first: int) -> np.ndarray:
    """The indices first .. first + num - 1 of a run's images [num]; InputError for what is no such run."""
    num, first = whole("num", num), whole("first", first)
    if not 1 <= num < 2**32:
        raise InputError(f"{num} images asked for: give at least 1, and fewer than {2**32}")
    check_seed(seed)
    if not 0 <= first < 2**32 - num:
        raise InputError(f"first={first} must be between 0 and {2**32 - num - 1}, for indices have 32 bits")
    return np.arange(first, first + num, dtype=np.uint32)


def check_seed(seed: int) -> None:
    """InputError unless seed is a whole number of 32 bits."""
    if not 0 <= whole("seed", seed) <= MOST_SEED:
        raise InputError(f"seed={seed} must be between 0 and {MOST_SEED}")


def integer_images(images: np.ndarray, image: ImageSpec) -> np.ndarray:
    """The images [n h w c], as an array; InputError unless they are integers 0..levels-1 of the model's shape."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != tuple(image.shape) or not len(images):
        wanted = " ".join(map(str, image.shape))
        raise InputError(f"images of shape {list(images.shape)}: this model takes [n {wanted}], n at least 1")
    if not np.issubdtype(images.dtype, np.integer) or images.min() < 0 or images.max() >= image.levels:
        raise InputError(
            f"images of {images.dtype} from {images.min()} to {images.max()}: give integers from 0 to "
            f"{image.levels - 1}, the levels of the data"
        )
    return images


def checked_images(images: np.ndarray, image: ImageSpec) -> np.ndarray:
    """Images [n h w c] as float32 in [-1, 1]; InputError unless they are uint8, or such floats, and the model's."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != tuple(image.shape) or not len(images):
        shape = " ".join(map(str, image.shape))
        raise InputError(f"images of shape {list(images.shape)}: this model takes [n {shape}]; resize or crop them")
    if images.dtype == np.uint8:
        return (2 * images.astype(np.float32) - 255) / 255
    if not np.issubdtype(images.dtype, np.floating) or not np.abs(images).max() <= 1:
        raise InputError(
            f"images of {images.dtype} from {images.min()} to {images.max()}: give uint8, or floats in [-1, 1]"
        )
    return images.astype(np.float32)


def check_spelling(request: Mapping[str, Any], read: Sequence[str], function: Callable[..., Any] | None) -> None:
    """InputError for a keyword that is nearly one of a function's options, or of what the model is told."""
    options = [*read, *(inspect.signature(function).parameters if function else ())]
    for name, value in request.items():
        close = difflib.get_close_matches(name, options, n=1)
        if value is not None and name not in read and close:
            raise InputError(f"{name}={value!r} is no option; did you mean {close[0]}?")


def checked_noise(noise: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Noise as float32; InputError unless it is of finite floats of this shape."""
    noise = np.asarray(noise)
    if noise.shape != tuple(shape):
        raise InputError(f"noise of shape {list(noise.shape)}: give one of {list(shape)}, an x_T for each image")
    if not jax.dtypes.issubdtype(noise.dtype, np.floating):
        raise InputError(f"noise of {noise.dtype}: give floats, as of N(0, I)")
    noise = noise.astype(np.float32)
    if not np.isfinite(noise).all():
        raise InputError("noise with values that are not finite: give floats as of N(0, I)")
    return noise


def checked_times(t: int | float | Array, num: int, num_train_timesteps: int | None) -> Array:
    """t as a schedule takes it; InputError unless it is one time, or one for each of num images, within 0..T-1.

    Without steps, in continuous time, it is a number between 0 and 1.
    """
    if np.shape(t) not in ((), (num,)):
        raise InputError(f"t of shape {list(np.shape(t))} must be one step, or one for each of {num} images")
    is_continuous = num_train_timesteps is None
    kind, last = (np.floating, 1) if is_continuous else (np.integer, num_train_timesteps - 1)
    if not isinstance(t, jax.core.Tracer):  # a traced value can't be looked at
        times = np.asarray(t, np.float32) if is_continuous else np.asarray(t)
        if not np.issubdtype(times.dtype, kind) or times.min() < 0 or times.max() > last:
            what = "a time" if is_continuous else "an integer step"
            raise InputError(f"t={t} must be {what}, or one an image, between 0 and {last}")
    return jnp.asarray(t, jnp.float32 if is_continuous else jnp.int32)


def fitting_batch_size(size: int, mapping: DeviceMapping, *, num: int | None = None) -> int:
    """At least what was asked for, or num images if they are fewer, and a multiple of the number of devices."""
    size = whole("batch_size", size)
    if size < 1:
        raise InputError(f"batch_size={size} must be at least 1")
    size = size if num is None else min(size, num)
    count = len(mapping.devices)
    return -(-size // count) * count


def batches(rows: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """The rows [n ...] in batches [size ...], the last one filled up with its first row."""
    count = len(next(iter(rows.values())))
    for start in range(0, count, size):
        yield {name: padded(values[start : start + size], size) for name, values in rows.items()}


def over_batches(
    function: Callable[..., Any],
    params: Any,
    rows: dict[str, np.ndarray],
    *arguments: Any,
    batch_size: int,
    mapping: DeviceMapping,
    progress: bool = False,
) -> Any:
    """function(params, batch, *arguments), compiled for a mapping, of all rows, as arrays on the host."""
    count, size = len(next(iter(rows.values()))), fitting_batch_size(batch_size, mapping)
    bar = tqdm(batches(rows, size), total=-(-count // size), disable=None if progress else True)
    results = [function(params, mapping.put(batch), *arguments) for batch in bar]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


def padded(rows: np.ndarray, size: int) -> np.ndarray:
    """rows with the first one repeated until there are size of them."""
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


def whole(name: str, value: Any) -> int:
    """value as an int; InputError for what is no whole number."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(f"{name}={value!r} must be a whole number")
