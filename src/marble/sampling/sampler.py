"""The protocol of a sampler, and the one loop that all of them share.

A sampler goes from one noise level to a lower one. The loop owns the grid of levels and the keys: image i of a run
has its own key, and every number drawn for it comes from that key and the step, so that image i is the same
whatever else is in its batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.typing import Array, Context, DenoiseFn, Level, Prediction, coefficient_like

Number = float | Array
"""A setting of a sampler that may be traced: another value is the same program."""


class Step(NamedTuple):
    """The outcome of one sampler step."""

    x: Array
    """x_s [b ...]."""
    x_0: Array
    """The prediction of x_0 on which the step was made [b ...]: what progressive pictures show."""
    carry: object
    """What the sampler remembers for its next step, a pytree."""


class Sampler(Protocol):
    """init(x, num_steps) -> carry, and one step from level_t to the lower level_s, with one key an image [b]."""

    def init(self, x: Array, num_steps: int | Array) -> object: ...

    def step(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: object, keys: Array
    ) -> Step: ...


class Frames(NamedTuple):
    """The way from noise to image, [num_frames b ...] each; the last frame is the end."""

    x: Array
    x_0: Array


def image_keys(seed: int | Array, indices: Array) -> Array:
    """The keys [b] of the images with these indices [b]: each depends on (seed, index) alone."""
    root = jax.random.key(seed, impl="threefry2x32")  # rbg keys lose their independence under vmap
    return jax.vmap(partial(jax.random.fold_in, root))(indices)


def noise_like(keys: Array, x: Array) -> Array:
    """N(0, I) noise shaped like x [b ...], each image's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def fold_keys(keys: Array, data: int | Array) -> Array:
    """Each image's key folded with the same number: keys [b] of draws apart from its other ones."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def check_between(name: str, value: Number, low: float, high: float = float("inf")) -> None:
    """InputError unless low <= value <= high; a traced value can't be looked at, and passes."""
    if not isinstance(value, jax.core.Tracer) and not np.all((low <= np.asarray(value)) & (np.asarray(value) <= high)):
        allowed = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise InputError(f"{name}={value} must be {allowed}")


def sample(
    denoise_fn: DenoiseFn,
    sampler: Sampler,
    levels: Level,
    keys: Array,
    shape: Sequence[int],
    *,
    context: Context | None = None,
    noise: Array | None = None,
    num_steps: int | Array | None = None,
    num_frames: int = 0,
    self_conditioning: bool = False,
    tells_s: bool = False,
    dtype: Any = jnp.float32,
) -> Array | tuple[Array, Frames]:
    """Images [b, *shape] ~ p(x_0), from x_T ~ N(0, I) along the levels: one compiled loop.

    levels holds arrays [N + 1] from the noisiest to the last, clean one (see ``grid``); keys [b] are ``image_keys``.
    noise [b, *shape], of the size of N(0, I), takes the place of what is drawn by the keys for x_T.
    num_steps <= N, which may be traced, walks the first num_steps + 1 levels only: with a padded grid, any number of
    steps is one program. With num_frames > 0, at most the number of steps, returns (images, Frames). With
    self_conditioning the context has the last step's ``x_0``, at first zeros (Chen et al. 2022); with tells_s it has
    ``s`` [b], the model's time where the step ends, for models of whole steps (Geng et al. 2025). dtype is that of x,
    of its noise, and of what the sampler sees of a prediction. Can be jitted, vmapped and sharded. Raises InputError
    for more steps than levels, or more frames than steps, where these are known.
    """
    count = levels.alpha.shape[0] - 1 if num_steps is None else num_steps
    if not isinstance(count, jax.core.Tracer):
        _check_counts(int(count), levels.alpha.shape[0] - 1, num_frames)
    x = noise_like(fold_keys(keys, 0), jnp.zeros((keys.shape[0], *shape), dtype)) if noise is None else noise
    first = _at(levels, 0)
    # All the noise of the first level where alpha = 1. Where alpha² + sigma² = 1 but for rounding, exactly 1.
    size = jnp.hypot(first.alpha, first.sigma)
    x = x * coefficient_like(jnp.where(jnp.abs(size - 1) < 1e-5, 1.0, size), x)
    stack = jnp.zeros((num_frames, *x.shape), x.dtype)
    frames = Frames(x=stack, x_0=stack) if num_frames else None

    def asked(x_t: Array, level: Level, context: Context | None) -> Prediction:
        return jax.tree.map(lambda leaf: leaf.astype(x_t.dtype), denoise_fn(x_t, level, context))

    def body(i, state):
        x, x_0, carry, frames = state
        told = {**(context or {}), "x_0": x_0} if self_conditioning else context
        if tells_s:
            told = {**(told or {}), "s": jnp.broadcast_to(_at(levels, i + 1).t, keys.shape)}
        step = sampler.step(
            partial(asked, context=told), _at(levels, i), _at(levels, i + 1), x, carry, fold_keys(keys, i + 1)
        )
        slot = i * num_frames // count  # of the steps that share a frame the last one stays
        if frames is not None:
            frames = Frames(frames.x.at[slot].set(step.x), frames.x_0.at[slot].set(step.x_0))
        return step.x, step.x_0 if self_conditioning else None, step.carry, frames

    estimate = jnp.zeros_like(x) if self_conditioning else None
    x, _, _, frames = jax.lax.fori_loop(0, count, body, (x, estimate, sampler.init(x, count), frames))
    return (x, frames) if num_frames else x


def _check_counts(count: int, most: int, num_frames: int) -> None:
    if not 1 <= count <= most:
        raise InputError(f"num_steps={count} must be between 1 and {most}, the number of levels less one")
    if num_frames > count:
        raise InputError(f"num_frames={num_frames} must be at most the number of steps, {count}")


def _at(levels: Level, i: Array) -> Level:
    return jax.tree.map(lambda table: jnp.asarray(table)[i], levels)
