"""The terms of the ELBO that are Kullback-Leibler divergences of Gaussians (Ho et al. 2020, eq. 5).

-log p(x_0) <= L_T + sum_t L_{t-1} + L_0
L_T     = KL(q(x_T | x_0) || N(0, I))                       prior_kl
L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))     transition_kl
"""

import jax.numpy as jnp

from marble.diffusion.process import Gaussian, VarianceType, p_posterior, q_posterior
from marble.diffusion.schedules import Schedule
from marble.typing import Array, Prediction


def gaussian_kl(p: Gaussian, q: Gaussian) -> Array:
    """KL(p || q) in nats, element by element:

    (log(v_q / v_p) + v_p / v_q + (mean_p - mean_q)^2 / v_q - 1) / 2, written so that close variances don't cancel.
    """
    excess = p.variance / q.variance - 1
    return 0.5 * (excess - jnp.log1p(excess) + (p.mean - q.mean) ** 2 / q.variance)


def prior_kl(schedule: Schedule, x_0: Array) -> Array:
    """L_T for each image of x_0 [b ...], in nats, summed over the image: [b]."""
    level = schedule.level(schedule.num_train_timesteps - 1).like(x_0)
    last = Gaussian(mean=level.alpha * x_0, variance=level.sigma**2)
    return _sum(gaussian_kl(last, Gaussian(jnp.zeros_like(x_0), jnp.ones_like(level.sigma))))


def transition_kl(
    schedule: Schedule,
    prediction: Prediction,
    *,
    x_0: Array,
    x_t: Array,
    t: Array,
    variance_type: VarianceType = "fixed_small",
) -> Array:
    """L_{t-1} for each image, in nats, summed over the image: [b].

    x_0 and x_t are [b ...], t integers [b] in 1..T-1: step 0 is the decoder's and has no such term.
    """
    levels = dict(level_t=schedule.level(t), level_s=schedule.previous_level(t))
    truth = q_posterior(x_0=x_0, x_t=x_t, **levels)
    return _sum(gaussian_kl(truth, p_posterior(prediction, x_t=x_t, variance_type=variance_type, **levels)))


def _sum(x: Array) -> Array:
    """The sum over all axes but the first."""
    return x.sum(axis=tuple(range(1, x.ndim)))
