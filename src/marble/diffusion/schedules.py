"""Noise schedules: how much of the image and how much noise there is at each step.

The forward process adds noise in T steps with variances beta_0 .. beta_{T-1} (Ho et al. 2020, eq. 2). Everything
else follows from them:

    alphas_cumprod_t = prod_{i <= t} (1 - beta_i)          what is left of the image's variance
    alpha_t = sqrt(alphas_cumprod_t),  sigma_t = sqrt(1 - alphas_cumprod_t)
    x_t = alpha_t x_0 + sigma_t noise                      Ho et al. eq. 4

Steps are counted from 0: t = 0 is the least noisy, t = T - 1 the noisiest, and the papers' t = 1..T is our t + 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.typing import Array, Level


class Schedule(NamedTuple):
    """The tables of a discrete schedule, each [T]: float64 on the host, cast once where they meet x.

    A pytree of arrays: close over it, or pass it to a jitted function.
    """

    betas: Array
    alphas_cumprod: Array
    alpha: Array
    sigma: Array

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return self.betas.shape[0]

    def level(self, t: Array) -> Level:
        """The noise level of step t in 0..T-1, an integer or integers [b]."""
        return Level(t, jnp.asarray(self.alpha)[t], jnp.asarray(self.sigma)[t])

    def previous_level(self, t: Array) -> Level:
        """The noise level of step t - 1; what precedes step 0 is the clean image (alpha 1, sigma 0)."""
        level = self.level(jnp.maximum(t - 1, 0))
        is_clean = jnp.equal(t, 0)
        return Level(level.t, jnp.where(is_clean, 1.0, level.alpha), jnp.where(is_clean, 0.0, level.sigma))


def from_betas(betas: np.ndarray) -> Schedule:
    """The schedule of given betas [T], T >= 2, each strictly between 0 and 1; else an InputError."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size < 2 or not np.all((betas > 0) & (betas < 1)):
        found = f"between {betas.min()} and {betas.max()}" if betas.size else "none"
        raise InputError(f"a schedule needs two or more betas, each between 0 and 1; these are {found}")
    log_alphas_cumprod = np.cumsum(np.log1p(-betas))
    return Schedule(
        betas=betas,
        alphas_cumprod=np.exp(log_alphas_cumprod),
        alpha=np.exp(0.5 * log_alphas_cumprod),
        sigma=np.sqrt(-np.expm1(log_alphas_cumprod)),  # 1 - alphas_cumprod would cancel at small t
    )


def linear(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta_t from beta_start to beta_end in T equal steps (Ho et al. 2020, section 4)."""
    if num_train_timesteps < 2:
        raise InputError(f"num_train_timesteps={num_train_timesteps} must be at least 2")
    return from_betas(np.linspace(beta_start, beta_end, num_train_timesteps))
