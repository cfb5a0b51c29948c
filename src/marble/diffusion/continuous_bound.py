"""The variational bound on a curve of log-SNR (Kingma et al. 2021): an integral over t in [0, 1], or its sum.

With SNR = alpha² / sigma² = exp(log_snr) and the posterior's variance,

    L_K   = 1/2 sum_k (SNR(s_k) - SNR(t_k)) E ||x_0 - x^_0(x_t)||²,   s_k = k/K, t_k = (k + 1)/K      eq. 13
    L_inf = 1/2 int_0^1 -SNR'(t) E ||x_0 - x^_0(x_t)||² dt                                             eq. 15

The least noisy level has noise already, and its decoder is p(x_0 | x_t) ∝ q(x_t | x_0). Of the curve, the integral
knows nothing but the two ends. Noise is given as a function of the step, as in ``bound``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from marble.diffusion.bound import BoundTerms, NoiseFn
from marble.diffusion.likelihood import mean_of_image, prior_kl_at, sum_of_image
from marble.diffusion.schedules import NoiseSchedule
from marble.errors import InputError
from marble.typing import Array, Context, DenoiseFn, Level

Curve = Callable[[Array], Array]


def continuous_bound_terms(
    denoise_fn: DenoiseFn,
    schedule: NoiseSchedule,
    *,
    x_0: Array,
    noise: NoiseFn,
    levels: int,
    num_steps: int,
    offset: Callable[[Array], Array] | None = None,
    context: Context | None = None,
) -> BoundTerms:
    """-log p(x_0) <= L_T + L_inf + L_0, or with L_K in place of L_inf (Kingma et al. 2021, eq. 11-15).

    Without offset it is L_K of num_steps steps. offset(k) in [0, 1), a number or one an image [b], says where in the
    k-th of num_steps equal parts of [0, 1] the integrand of L_inf is taken: uniform draws make the estimate unbiased,
    1/2 is the midpoint rule. by_step and squared_error have num_steps + 1 rows, row 0 the decoder's; row k's noise is
    noise(k). A schedule in steps is a curve too, with its log-SNR interpolated.
    """
    if num_steps < 1:
        raise InputError(f"num_steps={num_steps} must be at least 1")
    curve = unit_curve(schedule)

    def at(k: Array) -> tuple[Array, Array]:
        log_snr, snr_lost = _sum_step(curve, k, num_steps) if offset is None else _point(curve, k, num_steps, offset)
        level = schedule.level_at(log_snr)
        x_t = level.like(x_0).alpha * x_0 + level.like(x_0).sigma * noise(k)
        squared_error = mean_of_image(jnp.square(x_0 - denoise_fn(x_t, level, context).x_0))
        term = jax.lax.cond(
            k == 0,
            lambda: -sum_of_image(categorical_log_prob(x_0, x_t, level, levels)),
            lambda: 0.5 * snr_lost * squared_error * x_0[0].size,
        )
        return term, squared_error

    by_step, squared_error = jax.lax.map(at, jnp.arange(num_steps + 1))
    return BoundTerms(prior_kl_at(schedule.level_at(curve(jnp.ones(()))), x_0), by_step, squared_error)


def unit_curve(schedule: NoiseSchedule) -> Curve:
    """log-SNR over t in [0, 1], from the schedule's least noisy level to its noisiest."""
    total = schedule.num_train_timesteps
    return lambda t: schedule.level(t if total is None else t * (total - 1)).log_snr


def categorical_log_prob(x_0: Array, x_t: Array, level: Level, levels: int) -> Array:
    """log p(x_0 | x_t) of each pixel, p(x_0 | x_t) ∝ q(x_t | x_0) over the levels (Kingma et al. 2021, section 3.3).

    x_0 and x_t are [b ...]. It is the posterior of a pixel whose levels are equally likely.
    """
    level = level.like(x_t)

    def log_density(value: Array) -> Array:  # but for a constant
        return -0.5 * ((x_t - level.alpha * value) / level.sigma) ** 2

    def add(i: Array, total: Array) -> Array:
        return jnp.logaddexp(total, log_density((2 * i - (levels - 1)) / (levels - 1)))

    # A loop: an array over all levels would be 256 times the image.
    return log_density(x_0) - jax.lax.fori_loop(0, levels, add, jnp.full_like(x_t, -jnp.inf))


def _sum_step(curve: Curve, k: Array, num_steps: int) -> tuple[Array, Array]:
    """log-SNR at the end of step k = 1..num_steps, and the SNR that it loses; for k = 0 of the least noisy level."""
    log_snr_s, log_snr_t = curve(jnp.maximum(k - 1, 0) / num_steps), curve(k / num_steps)
    return log_snr_t, jnp.exp(log_snr_t) * jnp.expm1(log_snr_s - log_snr_t)  # a difference of SNRs would cancel


def _point(curve: Curve, k: Array, num_steps: int, offset: Callable[[Array], Array]) -> tuple[Array, Array]:
    """log-SNR in part k = 1..num_steps, and the SNR that the part would lose at the slope there; for k = 0 as above."""
    t = jnp.where(k == 0, 0.0, (k - 1 + offset(k)) / num_steps)
    log_snr, slope = jax.jvp(curve, (t,), (jnp.ones_like(t),))
    return log_snr, -slope * jnp.exp(log_snr) / num_steps
