"""Noise schedules in T steps: how much of the image and how much noise there is at each.

The forward process adds noise in T steps with variances beta_0 .. beta_{T-1} (Ho et al. 2020, eq. 2). Everything
else follows from them:

    alphas_cumprod_t = prod_{i <= t} (1 - beta_i)          what is left of the image's variance
    alpha_t = sqrt(alphas_cumprod_t),  sigma_t = sqrt(1 - alphas_cumprod_t)
    x_t = alpha_t x_0 + sigma_t noise                      Ho et al. eq. 4

Steps are counted from 0: t = 0 is the least noisy, t = T - 1 the noisiest, and the papers' t = 1..T is our t + 1.

Between two steps, at a fractional t, the log-SNR is interpolated linearly, and a model that was trained on integers is
told the fraction: its sinusoidal embedding takes any number. Schedules in continuous time are in ``continuous``; both
kinds turn a time into a ``Level`` by ``level``, and a log-SNR by ``level_at``.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from marble.errors import InputError
from marble.typing import Array, Level

LOWEST_LOG_SNR = -80.0
"""In place of minus infinity, where a schedule ends without any image: interpolation needs a number."""

MOST_IMAGE = 0.2
"""So much of an image may be left, by ``image_left``, where sampling starts from pure noise.

N(0, I) in the place of q(x_t | x_0) costs about alpha² / 2 nats a dimension: here 0.03 bits. Published schedules end
below 0.1; Stable Diffusion's, which has the most, at 0.068.
"""


class NoiseSchedule(Protocol):
    """What all schedules, in steps or in continuous time, can do."""

    @property
    def num_train_timesteps(self) -> int | None:
        """T, where time is the integers 0..T-1; None where it is the interval [0, 1]."""
        ...

    def level(self, t: Array) -> Level:
        """The noise level at time t, a number or one an image [b]."""
        ...

    def level_at(self, log_snr: Array) -> Level:
        """The noise level of a log-SNR, a number or one an image [b]."""
        ...


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

    @property
    def log_snr(self) -> Array:
        """log(alpha² / sigma²) [T], falling; no lower than LOWEST_LOG_SNR."""
        xp = np if isinstance(self.alpha, np.ndarray) else jnp
        tiny = xp.exp(LOWEST_LOG_SNR / 2)
        return 2 * (xp.log(xp.maximum(self.alpha, tiny)) - xp.log(self.sigma))

    def level(self, t: Array) -> Level:
        """The noise level of step t in 0..T-1, an integer, a fraction, or one an image [b].

        InputError for another; a traced t can't be looked at.
        """
        t = jnp.asarray(t)
        if not isinstance(t, jax.core.Tracer):
            known, last = np.asarray(t), self.num_train_timesteps - 1  # NumPy's, for under a jit all of jax's is traced
            if not ((known >= 0) & (known <= last)).all():
                raise InputError(f"t={known} must be between 0 and {last}")
        if jnp.issubdtype(t.dtype, jnp.integer):
            return Level(t, jnp.asarray(self.alpha)[t], jnp.asarray(self.sigma)[t])
        steps = jnp.arange(self.num_train_timesteps)
        return variance_preserving(t, jnp.interp(t, steps, jnp.asarray(self.log_snr)))

    def level_at(self, log_snr: Array) -> Level:
        """The level with this log-SNR, and its fractional t; outside of the table t stays at the nearest end."""
        rising = jnp.asarray(self.log_snr)[::-1]
        steps = jnp.arange(self.num_train_timesteps)[::-1]
        return variance_preserving(jnp.interp(log_snr, rising, steps.astype(rising.dtype)), jnp.asarray(log_snr))

    def previous_level(self, t: Array) -> Level:
        """The noise level of step t - 1; what precedes step 0 is the clean image (alpha 1, sigma 0)."""
        level = self.level(jnp.maximum(t - 1, 0))
        is_clean = jnp.less(t, 1)
        return Level(level.t, jnp.where(is_clean, 1.0, level.alpha), jnp.where(is_clean, 0.0, level.sigma))


def variance_preserving(t: Array, log_snr: Array) -> Level:
    """The level with alpha² + sigma² = 1 of a log-SNR: alpha² = sigmoid(log_snr), sigma² = sigmoid(-log_snr)."""
    return Level(t, jnp.exp(0.5 * -jnp.logaddexp(0.0, -log_snr)), jnp.exp(0.5 * -jnp.logaddexp(0.0, log_snr)))


def image_left(level: Level) -> Array:
    """alpha / sqrt(alpha² + sigma²): 1 where there is no noise, 0 where nothing else is."""
    return level.alpha / np.hypot(level.alpha, level.sigma)


def from_betas(betas: np.ndarray) -> Schedule:
    """The schedule of given betas [T], T >= 2, each between 0 and 1, the last at most 1; else an InputError."""
    betas = np.asarray(betas, np.float64)
    inside = (betas > 0) & (betas < 1)
    if betas.ndim != 1 or betas.size < 2 or not (np.all(inside[:-1]) and 0 < betas[-1] <= 1):
        found = f"between {betas.min()} and {betas.max()}" if betas.size else "none"
        raise InputError(f"a schedule needs two or more betas, each between 0 and 1; these are {found}")
    with np.errstate(divide="ignore"):  # a last beta of 1 leaves nothing: log 0
        log_alphas_cumprod = np.cumsum(np.log1p(-betas))
    return Schedule(
        betas=betas,
        alphas_cumprod=np.exp(log_alphas_cumprod),
        alpha=np.exp(0.5 * log_alphas_cumprod),
        sigma=np.sqrt(-np.expm1(log_alphas_cumprod)),  # 1 - alphas_cumprod would cancel at small t
    )


def linear(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta_t from beta_start to beta_end in T equal steps (Ho et al. 2020, section 4)."""
    return from_betas(np.linspace(beta_start, beta_end, checked(num_train_timesteps)))


def scaled_linear(num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """sqrt(beta_t) in T equal steps, which the DDPM code calls quadratic (Rombach et al. 2022: these end points)."""
    start, end = checked_root("beta_start", beta_start), checked_root("beta_end", beta_end)
    return from_betas(np.linspace(start, end, checked(num_train_timesteps)) ** 2)


def constant(num_train_timesteps: int = 1000, beta_end: float = 0.02) -> Schedule:
    """beta_t = beta_end for every t (the DDPM code's ``const``)."""
    return from_betas(np.full(checked(num_train_timesteps), beta_end))


def jsd(num_train_timesteps: int = 1000) -> Schedule:
    """beta_t = 1/(T - t): the image's share of the variance falls by 1/T a step, to nothing (Sohl-Dickstein 2015)."""
    return from_betas(1 / np.arange(checked(num_train_timesteps), 0, -1))


def warmup10(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta_t rises linearly over the first tenth of the steps, and stays (the DDPM code's ``warmup10``)."""
    return _warmup(checked(num_train_timesteps), beta_start, beta_end, num_train_timesteps // 10)


def warmup50(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta_t rises linearly over the first half of the steps, and stays (the DDPM code's ``warmup50``)."""
    return _warmup(checked(num_train_timesteps), beta_start, beta_end, num_train_timesteps // 2)


def squaredcos_cap_v2(num_train_timesteps: int = 1000, max_beta: float = 0.999) -> Schedule:
    """alphas_cumprod = cos²(pi/2 (t/T + s)/(1 + s)), s = 0.008, each beta at most max_beta (Nichol & Dhariwal 2021)."""
    u = np.arange(checked(num_train_timesteps) + 1) / num_train_timesteps
    left = np.cos(np.pi / 2 * (u + 0.008) / 1.008) ** 2
    return from_betas(np.minimum(1 - left[1:] / left[:-1], max_beta))


def sigmoid(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta_t along the logistic curve from -6 to 6, between beta_start and beta_end (Xu et al. 2022, GeoDiff)."""
    curve = 1 / (1 + np.exp(-np.linspace(-6, 6, checked(num_train_timesteps))))
    return from_betas(beta_start + (beta_end - beta_start) * curve)


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with alpha shifted and stretched so that its last step has no image left (Lin et al. 2024, alg. 1).

    A model on it can't predict eps: at the last step eps is x_t itself, and says nothing of x_0.
    """
    alpha = np.asarray(schedule.alpha)
    stretched = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return from_betas(1 - (stretched / np.append(1.0, stretched[:-1])) ** 2)


def checked(num_train_timesteps: int) -> int:
    """num_train_timesteps, if it is at least 2; else an InputError."""
    if num_train_timesteps < 2:
        raise InputError(f"num_train_timesteps={num_train_timesteps} must be at least 2")
    return num_train_timesteps


def checked_root(name: str, beta: float) -> float:
    """The root of a beta that is not negative; else an InputError."""
    if not beta >= 0:
        raise InputError(f"{name}={beta} must be between 0 and 1")
    return beta**0.5


def _warmup(num_train_timesteps: int, beta_start: float, beta_end: float, steps: int) -> Schedule:
    rising = np.linspace(beta_start, beta_end, steps)
    return from_betas(np.append(rising, np.full(num_train_timesteps - steps, beta_end)))
