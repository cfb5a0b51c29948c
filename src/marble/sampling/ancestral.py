"""Ancestral sampling: draw x_s ~ p(x_s | x_t), level after level (Ho et al. 2020, Algorithm 2)."""

from typing import NamedTuple

from marble.diffusion.process import VarianceType, ancestral_step
from marble.sampling.sampler import Step, noise_like
from marble.typing import Array, DenoiseFn, Level


class Ancestral(NamedTuple):
    """The DDPM sampler, over the full grid or any strided one; remembers nothing between steps."""

    variance_type: VarianceType = "fixed_small"

    def init(self, x: Array, num_steps: int | Array) -> tuple[()]:
        return ()

    def step(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: tuple[()], keys: Array
    ) -> Step:
        prediction = denoise_fn(x, level_t)
        x_s = ancestral_step(
            prediction,
            x_t=x,
            level_t=level_t,
            level_s=level_s,
            noise=noise_like(keys, x),
            variance_type=self.variance_type,
        )
        return Step(x_s, prediction.x_0, carry)
