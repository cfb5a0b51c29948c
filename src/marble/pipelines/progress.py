"""A progress bar that moves at each step of a compiled sampler."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from marble.sampling import Sampler, Step
from marble.typing import Array, DenoiseFn, Level


class Ticking(NamedTuple):
    """A sampler that calls tick() on the host at each step."""

    sampler: Sampler
    tick: Callable[[], None]

    def init(self, x: Array, num_steps: int | Array) -> object:
        return self.sampler.init(x, num_steps)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: object, keys: Array) -> Step:
        jax.debug.callback(self.tick)
        return self.sampler.step(denoise_fn, level_t, level_s, x, carry, keys)
