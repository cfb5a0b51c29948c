"""Predictor and corrector: after each step, Langevin dynamics at the level it came to (Song et al. 2021, algorithm 1).

    x <- x + step score + sqrt(2 step) z,    score = -eps / sigma,    step = 2 (snr |z| / |score|)²

has q(x_s) as its stationary distribution for small steps, and so makes good what the predictor's step missed. The size
of the step is such that its signal is ``snr`` of its noise (algorithms 4 and 5). The norms are each image's own, where
the paper has their mean over a batch: an image doesn't depend on the others. The paper's factor 1 - beta_t for
variance-preserving schedules, between 0.98 and 1 there, has no meaning for longer steps, and is left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.errors import InputError
from marble.sampling.sampler import Number, Sampler, Step, check_between, fold_keys, noise_like
from marble.typing import Array, DenoiseFn, Level, coefficient_like


class PredictorCorrector(NamedTuple):
    """Any one-step sampler, and num_corrections Langevin steps after each of its own but the last."""

    predictor: Sampler
    snr: Number = 0.16
    """The signal-to-noise ratio of a correction: 0.16 is Song et al.'s for CIFAR-10."""
    num_corrections: int = 1

    def init(self, x: Array, num_steps: int | Array) -> object:
        check_between("snr", self.snr, 0)
        if self.num_corrections < 0:
            raise InputError(f"num_corrections={self.num_corrections} must be at least 0")
        return self.predictor.init(x, num_steps)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: object, keys: Array) -> Step:
        step = self.predictor.step(denoise_fn, level_t, level_s, x, carry, keys)

        def correct(i: Array, x: Array) -> Array:
            eps = denoise_fn(x, level_s).eps
            return langevin_step(x, eps, level_s, noise=noise_like(fold_keys(keys, i), x), snr=self.snr)

        x_s = jax.lax.cond(
            jnp.all(level_s.sigma > 0),
            lambda: jax.lax.fori_loop(0, self.num_corrections, correct, step.x),
            lambda: step.x,  # there is no score of clean images
        )
        return step._replace(x=x_s)


def langevin_step(x: Array, eps: Array, level: Level, *, noise: Array, snr: Number) -> Array:
    """x + step score + sqrt(2 step) noise, step = 2 (snr |noise| / |score|)², score = -eps / sigma; all [b ...]."""

    def norm(a: Array) -> Array:
        a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
        return jnp.sqrt(jnp.sum(a**2, axis=tuple(range(1, a.ndim))))

    # In units of sigma, in which the score is -eps.
    size = 2 * (snr * norm(noise) / norm(eps)) ** 2
    drift, spread = (coefficient_like(level.sigma * c, x) for c in (size, jnp.sqrt(2 * size)))
    return x - drift * eps + spread * noise
