"""The terms of the ELBO (Ho et al. 2020, eq. 5). Their sum over all steps is in ``bound``.

-log p(x_0) <= L_T + sum_t L_{t-1} + L_0
L_T     = KL(q(x_T | x_0) || N(0, I))                       prior_kl
L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))     transition_kl
L_0     = -log p(x_0 | x_1)                                 reconstruction_nll
"""

from collections.abc import Callable

import jax.numpy as jnp

from marble.diffusion.decoder import discretised_gaussian_log_prob
from marble.diffusion.process import Gaussian, VarianceType, p_posterior, q_posterior, q_posterior_coefficients
from marble.diffusion.schedules import Schedule, variance_preserving
from marble.typing import Array, Level, Prediction

Decoder = Callable[[Array, Array, Array, int], Array]
"""decoder(x_0, mean, variance, levels) -> log p(x_0) of each pixel: one of ``decoder``'s functions."""


def gaussian_kl(p: Gaussian, q: Gaussian) -> Array:
    """KL(p || q) in nats, element by element:

    (log(v_q / v_p) + v_p / v_q + (mean_p - mean_q)^2 / v_q - 1) / 2, written so that close variances don't cancel.
    """
    excess = p.variance / q.variance - 1
    return 0.5 * (excess - jnp.log1p(excess) + (p.mean - q.mean) ** 2 / q.variance)


def prior_kl(schedule: Schedule, x_0: Array) -> Array:
    """L_T for each image of x_0 [b ...], in nats, summed over the image: [b]."""
    return prior_kl_at(schedule.level(schedule.num_train_timesteps - 1), x_0)


def prior_kl_at(level: Level, x_0: Array) -> Array:
    """KL(q(x_t | x_0) || N(0, (alpha² + sigma²) I)) for each image of x_0 [b ...], in nats: [b]."""
    level = variance_preserving(level.t, level.log_snr).like(x_0)  # a divergence does not change with the scale
    last = Gaussian(mean=level.alpha * x_0, variance=level.sigma**2)
    return sum_of_image(gaussian_kl(last, Gaussian(jnp.zeros_like(x_0), jnp.ones_like(level.sigma))))


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
    return sum_of_image(gaussian_kl(truth, p_posterior(prediction, x_t=x_t, variance_type=variance_type, **levels)))


def reconstruction_nll(
    schedule: Schedule,
    prediction: Prediction,
    *,
    x_0: Array,
    x_t: Array,
    levels: int,
    variance_type: VarianceType = "fixed_small",
    decoder: Decoder = discretised_gaussian_log_prob,
) -> Array:
    """L_0 = -log p(x_0 | x_t) at our step 0, for each image, in nats, summed over the image: [b] (eq. 13).

    x_0 [b ...] has this number of levels, x_t and the prediction are of step 0. Where the variance is fixed it is
    beta~_1, that of the step after, as in the DDPM reference: step 0 has none of its own.
    """
    _, _, clean_variance = q_posterior_coefficients(schedule.level(1), schedule.level(0))
    reverse = p_posterior(
        prediction,
        x_t=x_t,
        level_t=schedule.level(0),
        level_s=schedule.previous_level(0),
        variance_type=variance_type,
        clean_variance=clean_variance,
    )
    return -sum_of_image(decoder(x_0, reverse.mean, reverse.variance, levels))


def sum_of_image(x: Array) -> Array:
    """The sum over all axes but the first: [b]."""
    return x.sum(axis=tuple(range(1, x.ndim)))


def mean_of_image(x: Array) -> Array:
    """The mean over all axes but the first, in float32 or wider: [b]."""
    return x.mean(axis=tuple(range(1, x.ndim)), dtype=jnp.promote_types(x.dtype, jnp.float32))
