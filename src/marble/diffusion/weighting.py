"""Weights of the loss over noise levels, each stated for the error in eps: ``weight(schedule, t) -> [b]``.

The ELBO is a sum of errors in eps with the weights of Ho et al. 2020, eq. 12, or in continuous time an integral with
those of Kingma et al. 2021, eq. 17. The other weights turn attention from the smallest noise, where the ELBO puts most
of it, to what can be seen. With t drawn uniformly, and SNR = alpha² / sigma² = exp(log_snr):

    simple      none: 1 in the network's own space       Ho et al. 2020, eq. 14
    elbo        in steps     beta² / (2 v (1 - beta) sigma²)          Ho et al. 2020, eq. 12
                continuous   -1/2 d log_snr / dt                      Kingma et al. 2021, eq. 17
    snr         1                                        Salimans & Ho 2022, section 4
    min_snr     min(SNR, gamma) / SNR                    Hang et al. 2023
    p2          1 / (k + SNR)^gamma                      Choi et al. 2022
    sigmoid     elbo * sigmoid(bias - log_snr)           Kingma & Gao 2023; Hoogeboom et al. 2024
    edm         1 + 1 / (SNR std²)                       Karras et al. 2022, table 1
    truncated_snr  max(1, 1 / SNR)                       Salimans & Ho 2022, section 4

The same as weights of the error in x_0 are SNR times these, of that in v (variance preserving) alpha² times these:
``loss.denoising_loss`` converts them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from marble.diffusion.prediction import DATA_STD
from marble.diffusion.process import VarianceType
from marble.diffusion.schedules import LOWEST_LOG_SNR, NoiseSchedule, Schedule
from marble.errors import InputError
from marble.typing import Array

Weighting = Callable[[NoiseSchedule, Array], Array | None]
"""weighting(schedule, t [b]) -> the weights [b] of the errors in eps; None is 1 in the network's own space."""


def simple(schedule: NoiseSchedule, t: Array) -> None:
    """None: 1 for every t on whatever the network predicts (Ho et al. 2020, eq. 14)."""


def elbo(schedule: NoiseSchedule, t: Array, *, variance_type: VarianceType = "fixed_small") -> Array:
    """beta_t² / (2 v_t (1 - beta_t) sigma_t²) (Ho et al. 2020, eq. 12), or -1/2 d log_snr / dt (Kingma et al. 2021).

    In nats a dimension where the error is a mean square; v_t is the reverse step's variance. Step 0, the decoder's, has
    no such term: it takes the variance that the DDPM reference gives it, beta~_1, and its squared error (Ho et al.
    2020, section 3.4). In continuous time only fixed_small has a limit; else an InputError.
    """
    if schedule.num_train_timesteps is not None:
        return jnp.asarray(_elbo_table(schedule, variance_type))[t]
    if variance_type != "fixed_small":
        raise InputError(f"the bound in continuous time has the variance fixed_small, not {variance_type!r}")
    _, slope = jax.jvp(schedule.log_snr, (t,), (jnp.ones_like(t),))
    return -0.5 * slope


def snr(schedule: NoiseSchedule, t: Array) -> Array:
    """1; of the error in x_0, SNR (Salimans & Ho 2022, section 4): the eps loss for every prediction type."""
    return jnp.ones_like(_log_snr(schedule, t))


def min_snr(schedule: NoiseSchedule, t: Array, *, gamma: float = 5.0) -> Array:
    """min(SNR, gamma) / SNR; of the error in x_0, min(SNR, gamma) (Hang et al. 2023)."""
    if gamma <= 0:
        raise InputError(f"gamma={gamma} of the weighting min_snr must be above 0")
    return jnp.minimum(1.0, gamma * jnp.exp(-_log_snr(schedule, t)))


def p2(schedule: NoiseSchedule, t: Array, *, k: float = 1.0, gamma: float = 1.0) -> Array:
    """1 / (k + SNR)^gamma, on top of the eps loss's weight of 1 (Choi et al. 2022)."""
    if k < 0:
        raise InputError(f"k={k} of the weighting p2 must be at least 0")
    return (k + jnp.exp(_log_snr(schedule, t))) ** -gamma


def sigmoid(schedule: NoiseSchedule, t: Array, *, bias: float = 2.0) -> Array:
    """elbo * sigmoid(bias - log_snr) (Kingma & Gao 2023, their k = 2; Hoogeboom et al. 2024, their b).

    A weight over log-SNR, and so with the elbo's slope the same loss under every schedule of the same ends. Hoogeboom's
    weight of the error in x_0, e^b sigmoid(log_snr - b), is the same.
    """
    return elbo(schedule, t) * jax.nn.sigmoid(bias - _log_snr(schedule, t))


def edm(schedule: NoiseSchedule, t: Array) -> Array:
    """1 + (sigma / (alpha std))²; of the error in x_0, (s² + std²) / (s std)² for s = sigma / alpha.

    (Karras et al. 2022, table 1, with std = 0.5.) It is 1 in the space of EDM's network.
    """
    return 1 + jnp.exp(-_log_snr(schedule, t)) / DATA_STD**2


def truncated_snr(schedule: NoiseSchedule, t: Array) -> Array:
    """max(1, 1 / SNR); of the error in x_0, max(SNR, 1) (Salimans & Ho 2022, section 4): distillation's."""
    return jnp.maximum(1.0, jnp.exp(-_log_snr(schedule, t)))


def reverse_variance(schedule: Schedule, variance_type: VarianceType) -> np.ndarray:
    """The variance v_t [T] of each step of the full reverse chain, with beta~_1 at step 0 in place of 0.

    InputError for a learned one, which is no table.
    """
    betas, sigma_squared = np.asarray(schedule.betas), np.asarray(schedule.sigma) ** 2
    small = betas[1:] * sigma_squared[:-1] / sigma_squared[1:]
    later = {"fixed_small": small, "fixed_large": betas[1:]}.get(variance_type)
    if later is None:
        raise InputError(f"variance_type {variance_type!r} has no table of weights: weight by one that is fixed")
    return np.concatenate([small[:1], later])


def _elbo_table(schedule: Schedule, variance_type: VarianceType) -> np.ndarray:
    betas, sigma = np.asarray(schedule.betas), np.asarray(schedule.sigma)
    alpha = sigma * np.exp(np.asarray(schedule.log_snr) / 2)  # above 0 where no image is left
    kept = (alpha / np.append(1.0, alpha[:-1])) ** 2  # 1 - beta
    return betas**2 / (2 * reverse_variance(schedule, variance_type) * kept * sigma**2)


def _log_snr(schedule: NoiseSchedule, t: Array) -> Array:
    return jnp.maximum(schedule.level(t).log_snr, LOWEST_LOG_SNR)
