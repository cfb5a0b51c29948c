"""Wrappers of a sampler that make it begin at an image, or keep a part of one. They are samplers themselves.

FromImage     x_t of an image in the place of pure noise           Meng et al. 2022 (SDEdit), section 3
Inpainting    known pixels from q(x_s | x_0) after every step      Lugmayr et al. 2022 (RePaint), algorithm 1
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.diffusion.process import fresh_noise_share
from marble.sampling.sampler import Sampler, Step, fold_keys, noise_like
from marble.typing import Array, DenoiseFn, Level, coefficient_like

OWN = 2**31
"""Folded into the keys for what is drawn here: the sampler within may fold small numbers into them."""


class FromImage(NamedTuple):
    """The sampler, begun at start.alpha x_0 + start.sigma noise, noise being what the loop begins with.

    start is the first level of the grid; (alpha 0, sigma 1) begins at pure noise, as without this wrapper.
    """

    sampler: Sampler
    x_0: Array
    start: Level

    def init(self, x: Array, num_steps: int | Array) -> tuple[Array, object]:
        return jnp.ones((), bool), self.sampler.init(self._noised(x), num_steps)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: tuple, keys: Array) -> Step:
        is_first, inner = carry
        x = jnp.where(is_first, self._noised(x), x)
        step = self.sampler.step(denoise_fn, level_t, level_s, x, inner, keys)
        return step._replace(carry=(jnp.zeros((), bool), step.carry))

    def _noised(self, noise: Array) -> Array:
        # The loop has brought the noise to the size of the first level, which is not 1 on every path.
        size = jnp.hypot(self.start.alpha, self.start.sigma)
        start = self.start._replace(sigma=self.start.sigma / size).like(noise)
        return start.alpha * jnp.asarray(self.x_0, noise.dtype) + start.sigma * noise


class Inpainting(NamedTuple):
    """The sampler, with the known pixels of x_0 put in at the level that each step comes to.

    Known and unknown pixels are drawn apart and need not fit. So each step but the last is made ``resamples`` times:
    x_s goes back to level t by fresh noise and down again, which draws both towards their joint distribution (Lugmayr
    et al. 2022, section 4.2; one forward step a jump). 1 is the replacement alone, and calls the network least often.

    What a multistep sampler remembers is of a way that x has then left, so every step is its first one, of order 1.
    """

    sampler: Sampler
    x_0: Array
    is_known: Array
    """Booleans that broadcast against x_0."""
    resamples: Array

    def init(self, x: Array, num_steps: int | Array) -> tuple[Array, Array]:
        return jnp.ones((), bool), jnp.asarray(num_steps, jnp.int32)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: tuple, keys: Array) -> Step:
        is_first, num_steps = carry
        x = jnp.where(is_first, self._with_known(x, level_t, fold_keys(fold_keys(keys, OWN), 0)), x)

        def once(x: Array, keys: Array) -> Step:
            inner = self.sampler.init(x, num_steps)
            step = self.sampler.step(denoise_fn, level_t, level_s, x, inner, keys)
            return step._replace(x=self._with_known(step.x, level_s, fold_keys(fold_keys(keys, OWN), 1)))

        def again(i: Array, step: Step) -> Step:
            up, down = (fold_keys(fold_keys(keys, OWN), 2 * i + j) for j in (0, 1))  # i counts from 1
            return once(_back_to(level_t, level_s, step.x, up), down)

        # The step to the clean level draws nothing: repeated, it would pull every hole to its mean.
        repeats = jnp.where(level_s.sigma > 0, self.resamples, 1)
        step = jax.lax.fori_loop(1, repeats, again, once(x, keys))
        return step._replace(carry=(jnp.zeros((), bool), num_steps))

    def _with_known(self, x: Array, level: Level, keys: Array) -> Array:
        """x with the known pixels from q(x_t | x_0) at that level."""
        level, x_0 = level.like(x), jnp.asarray(self.x_0, x.dtype)
        return jnp.where(self.is_known, level.alpha * x_0 + level.sigma * noise_like(keys, x), x)


def _back_to(level_t: Level, level_s: Level, x_s: Array, keys: Array) -> Array:
    """x_t ~ q(x_t | x_s) = N(alpha_t / alpha_s x_s, sigma_t² (1 - SNR_t / SNR_s) I) (Kingma et al. 2021, app. A.1)."""
    ratio = coefficient_like(level_t.alpha / level_s.alpha, x_s)
    deviation = coefficient_like(level_t.sigma * jnp.sqrt(fresh_noise_share(level_t, level_s)), x_s)
    return ratio * x_s + deviation * noise_like(keys, x_s)
