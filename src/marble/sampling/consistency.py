"""Sampling of a consistency model: its x_0, noised again to the next level (Song et al. 2023, algorithm 1)."""

from typing import NamedTuple

from marble.sampling.sampler import Step, noise_like
from marble.typing import Array, DenoiseFn, Level


class Consistency(NamedTuple):
    """x_s = alpha_s x_0 + sigma_s noise, all the noise new: each step ends at data, and the next begins from there.

    For a denoise_fn that says where the way from x_t ends. Of one that says the mean, many steps blur.
    """

    def init(self, x: Array, num_steps: int | Array) -> tuple[()]:
        return ()

    def step(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: tuple[()], keys: Array
    ) -> Step:
        x_0 = denoise_fn(x, level_t).x_0
        level = level_s.like(x)
        return Step(level.alpha * x_0 + level.sigma * noise_like(keys, x), x_0, carry)
