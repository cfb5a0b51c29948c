"""Weights of the eps loss over t: a table [T] for each name.

The ELBO is a sum over t of eps errors with the weights of Ho et al. 2020, eq. 12; L_simple (eq. 14) sets them to 1,
which turns attention from the smallest noise, where the ELBO puts most of its weight, to what can be seen.
"""

import numpy as np

from marble.diffusion.process import VarianceType
from marble.diffusion.schedules import Schedule
from marble.errors import InputError


def simple(schedule: Schedule) -> np.ndarray:
    """1 for every t (Ho et al. 2020, eq. 14)."""
    return np.ones(schedule.num_train_timesteps)


def elbo(schedule: Schedule, variance_type: VarianceType = "fixed_small") -> np.ndarray:
    """beta_t^2 / (2 v_t (1 - beta_t) (1 - alphas_cumprod_t)), v_t the reverse step's variance (eq. 12).

    In nats a dimension where the error is a mean square. Step 0, the decoder's, has no such term: it takes the
    variance that the DDPM reference gives it, beta~_1, and its squared error (Ho et al. 2020, section 3.4).
    """
    betas, sigma_squared = np.asarray(schedule.betas), np.asarray(schedule.sigma) ** 2
    return betas**2 / (2 * reverse_variance(schedule, variance_type) * (1 - betas) * sigma_squared)


def reverse_variance(schedule: Schedule, variance_type: VarianceType) -> np.ndarray:
    """The variance v_t [T] of each step of the full reverse chain, with beta~_1 at step 0 in place of 0."""
    betas, sigma_squared = np.asarray(schedule.betas), np.asarray(schedule.sigma) ** 2
    small = betas[1:] * sigma_squared[:-1] / sigma_squared[1:]
    later = {"fixed_small": small, "fixed_large": betas[1:]}
    if variance_type not in later:
        raise InputError(f"variance_type {variance_type!r} is not one of {', '.join(later)}")
    return np.concatenate([small[:1], later[variance_type]])
