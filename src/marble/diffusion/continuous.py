"""Noise schedules in continuous time: a curve of log-SNR over t in [0, 1], from the clean end to the noisy one.

What a level is follows from its log-SNR alone, by one of three paths from image to noise:

    variance preserving    alpha² + sigma² = 1        Ho et al. 2020; Kingma et al. 2021
    variance exploding     alpha = 1                  Song et al. 2021; Karras et al. 2022
    straight               alpha + sigma = 1          Lipman et al. 2023; Liu et al. 2023

A uniform t is the draw of training, so a curve is also the density of noise levels that a model is trained on: EDM's
log-normal sigma is the curve whose t is its quantile.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.diffusion.schedules import variance_preserving
from marble.errors import InputError
from marble.typing import Array, Level

Path = Callable[[Array, Array], Level]
"""path(t, log_snr) -> Level."""


def variance_exploding(t: Array, log_snr: Array) -> Level:
    """The level with alpha 1 of a log-SNR: sigma = exp(-log_snr / 2)."""
    return Level(t, jnp.ones_like(log_snr), jnp.exp(-0.5 * log_snr))


def straight(t: Array, log_snr: Array) -> Level:
    """The level with alpha + sigma = 1 of a log-SNR: alpha = sigmoid(log_snr / 2)."""
    return Level(t, jax.nn.sigmoid(0.5 * log_snr), jax.nn.sigmoid(-0.5 * log_snr))


class ContinuousSchedule(NamedTuple):
    """A curve, a path, and what the model is told of the time. Functions, so to be closed over, not passed to a jit."""

    log_snr: Callable[[Array], Array]
    """Of t in [0, 1], falling."""
    path: Path
    model_time: Callable[[Array], Array]
    """What the model is told, of a log-SNR."""

    @property
    def num_train_timesteps(self) -> None:
        """There are no steps."""
        return None

    def level(self, t: Array) -> Level:
        """The noise level at t in [0, 1], a number or one an image [b]."""
        return self.level_at(self.log_snr(jnp.asarray(t)))

    def level_at(self, log_snr: Array) -> Level:
        """The noise level of a log-SNR, a number or one an image [b]."""
        log_snr = jnp.asarray(log_snr)
        return self.path(self.model_time(log_snr), log_snr)


MODEL_STEPS = 1000.0
"""The model is told t * 1000: its sinusoids are made for steps of about this number."""


def _interval(curve: Callable[[Array], Array], inverse: Callable[[Array], Array], path: Path) -> ContinuousSchedule:
    """The schedule of a curve whose inverse tells the model where on [0, 1] it is."""
    return ContinuousSchedule(curve, path, lambda log_snr: MODEL_STEPS * inverse(log_snr))


def cosine(log_snr_min: float = -15.0, log_snr_max: float = 15.0) -> ContinuousSchedule:
    """log_snr = -2 log tan(pi t / 2), t cut so that it ends at the two bounds (Ho & Salimans 2022, section 2)."""
    if not log_snr_min < log_snr_max:
        raise InputError(f"log_snr_min={log_snr_min} must be below log_snr_max={log_snr_max}")
    start, end = (jnp.arctan(jnp.exp(-0.5 * bound)) for bound in (log_snr_max, log_snr_min))
    return _interval(
        lambda t: -2 * jnp.log(jnp.tan(start + t * (end - start))),
        lambda log_snr: (jnp.arctan(jnp.exp(-0.5 * log_snr)) - start) / (end - start),
        variance_preserving,
    )


def edm(p_mean: float = -1.2, p_std: float = 1.2) -> ContinuousSchedule:
    """log sigma ~ N(p_mean, p_std²), alpha = 1; the model is told log(sigma) / 4 (Karras et al. 2022, table 1)."""
    if not p_std > 0:
        raise InputError(f"p_std={p_std} must be above 0")

    def log_snr(t: Array) -> Array:
        inside = jnp.clip(t, 1e-6, 1 - 1e-6)  # the quantiles of 0 and 1 are infinite
        return -2 * (p_mean + p_std * jax.scipy.special.ndtri(inside))

    return ContinuousSchedule(log_snr, variance_exploding, lambda log_snr: -log_snr / 8)


def rectified_flow(
    t_min: float = 1e-3, t_max: float = 1.0 - 1e-3, time_scale: float = MODEL_STEPS
) -> ContinuousSchedule:
    """alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023), t from t_min to t_max, where both are above 0.

    The model is told t * time_scale: of 1000 its sinusoids are fast, and what it says has large derivatives by t.
    """
    if not 0 < t_min < t_max < 1:
        raise InputError(f"t_min={t_min} and t_max={t_max} must be between 0 and 1, t_min the lower")
    if not time_scale > 0:
        raise InputError(f"time_scale={time_scale} must be above 0")

    def log_snr(t: Array) -> Array:
        t = t_min + t * (t_max - t_min)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    return ContinuousSchedule(log_snr, straight, lambda log_snr: time_scale * jax.nn.sigmoid(-0.5 * log_snr))


def from_curve(curve: Callable[[Array], Array]) -> ContinuousSchedule:
    """The variance-preserving schedule of any falling curve of log-SNR over [0, 1], such as a learned one.

    The model is told how far the log-SNR is between the curve's ends, times 1000 (Kingma et al. 2021, appendix B).
    """
    high, low = curve(jnp.zeros(())), curve(jnp.ones(()))
    return _interval(curve, lambda log_snr: (high - log_snr) / (high - low), variance_preserving)
