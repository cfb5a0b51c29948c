"""The two processes of DDPM: q adds noise and is known; p removes it and is learned.

    q(x_t | x_{t-1})       one step of noise                      q_step
    q(x_t | x_0)           all of them at once, in closed form    q_sample
    q(x_s | x_t, x_0)      the way back, if x_0 were known        q_posterior
    p(x_s | x_t)           the way back, with x_0 predicted       p_posterior, ancestral_step

The posteriors go from any noise level t to any lower one s (Kingma et al. 2021, appendix A.2); between neighbouring
steps they are equations 6 and 7 of Ho et al. 2020. With r = SNR_t / SNR_s, the one number that both need is

    1 - r = -expm1(log_snr_t - log_snr_s),

the share of the noise at t that is not yet there at s. Near the clean end, where 1 - alpha_t^2 / alpha_s^2 loses its
digits, this form keeps them.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from marble.diffusion.schedules import NoiseSchedule, Schedule
from marble.errors import InputError
from marble.typing import Array, Level, Prediction, coefficient_like

VarianceType = Literal["fixed_small", "fixed_large", "learned_range", "learned"]


class Gaussian(NamedTuple):
    """N(mean, variance I); the variance is shaped to broadcast against the mean."""

    mean: Array
    variance: Array


def q_sample(schedule: NoiseSchedule, x_0: Array, t: Array, noise: Array) -> Array:
    """x_t ~ q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I) (Ho et al. 2020, eq. 4).

    x_0 and noise ~ N(0, I) are [b ...], t a time of the schedule or one an image [b]: integers
    in 0..T-1, or in [0, 1]. Returns x_t, shaped like x_0.
    """
    level = schedule.level(t).like(x_0)
    return level.alpha * x_0 + level.sigma * noise


def q_step(schedule: Schedule, x_s: Array, t: Array, noise: Array) -> Array:
    """x_t ~ q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I) (Ho et al. 2020, eq. 2).

    x_s is x_{t-1} [b ...]; T such steps in a row are q_sample at T - 1.
    """
    beta = jnp.asarray(schedule.betas)[t]
    step = Level(t, jnp.sqrt(1 - beta), jnp.sqrt(beta)).like(x_s)
    return step.alpha * x_s + step.sigma * noise


def q_posterior_coefficients(level_t: Level, level_s: Level) -> tuple[Array, Array, Array]:
    """(of_x_t, of_x_0, variance) of q(x_s | x_t, x_0) = N(of_x_t x_t + of_x_0 x_0, variance I)."""
    fresh = fresh_noise_share(level_t, level_s)
    of_x_t = level_t.alpha / level_s.alpha * (level_s.sigma / level_t.sigma) ** 2
    return of_x_t, level_s.alpha * fresh, level_s.sigma**2 * fresh


def q_posterior(*, x_0: Array, x_t: Array, level_t: Level, level_s: Level) -> Gaussian:
    """q(x_s | x_t, x_0) (Ho et al. 2020, eq. 6-7; Kingma et al. 2021, appendix A.2).

    x_0 and x_t are [b ...]; level_s is the less noisy. At the clean level the mean is x_0 and the variance 0.
    """
    # Formed in the levels' own precision and cast then: in bfloat16 the difference of log-SNRs would be all rounding.
    of_x_t, of_x_0, variance = q_posterior_coefficients(level_t, level_s)
    mean = coefficient_like(of_x_t, x_t) * x_t + coefficient_like(of_x_0, x_t) * x_0
    return Gaussian(mean=mean, variance=coefficient_like(variance, x_t))


def p_posterior(
    prediction: Prediction,
    *,
    x_t: Array,
    level_t: Level,
    level_s: Level,
    variance_type: VarianceType = "fixed_small",
    clean_variance: Array | None = None,
) -> Gaussian:
    """p(x_s | x_t): q_posterior with the predicted x_0, and a variance of its own (Ho et al. 2020, section 3.2).

    fixed_small     the posterior's own (beta~_t between neighbours), optimal for data that is one point
    fixed_large     the forward step's (beta_t between neighbours), optimal for data ~ N(0, I)
    learned_range   between the two, where the model's second output, -1..1, says on the logarithm's scale
                    (Nichol & Dhariwal 2021, eq. 15)
    learned         exp of the model's second output

    On the step to the clean level the small variance is 0, of which there is no logarithm: clean_variance takes its
    place, and that of fixed_large too, as in the DDPM reference. Without it learned_range gives those steps 0.
    """
    posterior = q_posterior(x_0=prediction.x_0, x_t=x_t, level_t=level_t, level_s=level_s)
    small = posterior.variance
    large = coefficient_like(level_t.sigma**2 * fresh_noise_share(level_t, level_s), x_t)
    if clean_variance is not None:
        to_clean = level_s.like(x_t).sigma == 0
        small = jnp.where(to_clean, coefficient_like(clean_variance, x_t), small)
        large = jnp.where(to_clean & (variance_type == "fixed_large"), small, large)
    match variance_type:
        case "fixed_small":
            return posterior._replace(variance=small)
        case "fixed_large":
            return posterior._replace(variance=large)
        case "learned_range":
            share = 0.5 * (_learned(prediction, variance_type) + 1)
            between = jnp.exp(share * jnp.log(large) + (1 - share) * jnp.log(jnp.where(small > 0, small, 1.0)))
            return posterior._replace(variance=jnp.where(small > 0, between, 0.0))
        case "learned":
            return posterior._replace(variance=jnp.exp(_learned(prediction, variance_type)))
    raise InputError(f"variance_type {variance_type!r} is not one of {', '.join(get_args(VarianceType))}")


def _learned(prediction: Prediction, variance_type: str) -> Array:
    if prediction.variance is None:
        raise InputError(
            f"variance_type {variance_type!r} needs a model that was trained with it: this one gives no variance"
        )
    return prediction.variance


def ancestral_step(
    prediction: Prediction,
    *,
    x_t: Array,
    level_t: Level,
    level_s: Level,
    noise: Array,
    variance_type: VarianceType = "fixed_small",
) -> Array:
    """x_s ~ p(x_s | x_t), lines 3-4 of Algorithm 2 (Ho et al. 2020). The step to the clean level adds no noise."""
    reverse = p_posterior(prediction, x_t=x_t, level_t=level_t, level_s=level_s, variance_type=variance_type)
    deviation = jnp.where(level_s.like(x_t).sigma > 0, jnp.sqrt(reverse.variance), 0.0)
    return reverse.mean + deviation * noise


def fresh_noise_share(level_t: Level, level_s: Level) -> Array:
    """1 - SNR_t / SNR_s: how much of the noise at t is not yet there at s."""
    return -jnp.expm1(level_t.log_snr - level_s.log_snr)
