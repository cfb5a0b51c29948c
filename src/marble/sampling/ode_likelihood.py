"""The likelihood under the probability flow, by the instantaneous change of variables (Song et al. 2021, appendix D).

The flow carries noise to images without adding any; along it a density changes by the divergence of the velocity,
d log p / dh = -div. It is written in the variable that all paths from image to noise share: y = x_t scaled to
alpha² + sigma² = 1, over h = log(sigma / alpha) = -log_snr / 2,

    dy/dh = sigma (eps(x_t) - sigma y),     div = sigma tr(d eps / dy) - sigma² D,

which is smooth and of unit size at both ends, so that equal steps of log-SNR by the classical Runge-Kutta method of
order 4 are enough. A density of images is not yet a probability of pixels: dequantisation is at the end of the file.
"""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp

from marble.diffusion.schedules import NoiseSchedule, variance_preserving
from marble.errors import InputError
from marble.typing import Array, Context, DenoiseFn, Level, coefficient_like

logger = logging.getLogger(__name__)

Divergence = Callable[[Callable[[Array], Array], Array], tuple[Array, Array]]
"""divergence(f, y [b ...]) -> (f(y) [b ...], the trace of df/dy for each image [b]), f acting on each image alone."""

Flow = Callable[[Array, Array], tuple[Array, Array]]
"""flow(h, y) -> (dy/dh [b ...], div [b])."""

NODES, WEIGHTS = (0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
"""The classical Runge-Kutta method, each of whose stages begins with the velocity of the one before."""

NOISIEST_LOG_SNR = -20.0
"""Where the flow ends for schedules that go on to pure noise: an image's share of the variance is 2e-9 there."""

MOST_BIN_TO_NOISE = 4.0
"""Bins this many times wider than the noise leave gaps in the density: uniform dequantisation would fall in them."""


def ode_log_prob(
    denoise_fn: DenoiseFn,
    schedule: NoiseSchedule,
    x_t: Array,
    *,
    divergence: Divergence,
    num_steps: int | Array = 100,
    context: Context | None = None,
) -> Array:
    """log p(x_t) = log N(y_1; 0, I) + int div dh, at the schedule's least noisy level, for each image: [b], in nats.

    x_t [b ...] is on the schedule's own scale. num_steps, which may be traced, are steps of equal log-SNR, each with
    four calls of denoise_fn. denoise_fn must be smooth: without thresholds.
    """
    log_snr, last = ends(schedule)
    start, step = -0.5 * log_snr, 0.5 * (log_snr - last) / num_steps
    to_y = _scale(schedule, start)

    def flow(h: Array, y: Array) -> tuple[Array, Array]:
        level, sigma = schedule.level_at(-2 * h), variance_preserving(h, -2 * h).like(y).sigma
        scale = coefficient_like(1 / _scale(schedule, h), y)
        eps, trace = divergence(lambda y: denoise_fn(scale * y, level, context).eps, y)
        return sigma * (eps - sigma * y), sigma * trace - sigma**2 * y[0].size

    def body(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        return _runge_kutta(flow, start + i * step, state, step)

    y = coefficient_like(to_y, x_t) * x_t
    y, integral = jax.lax.fori_loop(0, num_steps, body, (y, jnp.zeros_like(y, shape=y.shape[:1])))
    return _log_standard_normal(y) + integral + y[0].size * jnp.log(to_y)


def ends(schedule: NoiseSchedule) -> tuple[Array, Array]:
    """The log-SNR at the schedule's least noisy level, and at its noisiest, where that is above NOISIEST_LOG_SNR."""
    total = schedule.num_train_timesteps
    first, last = (schedule.level(t).log_snr for t in ((0.0, 1.0) if total is None else (0, total - 1)))
    return first, jnp.maximum(last, NOISIEST_LOG_SNR)


def exact_divergence(f: Callable[[Array], Array], y: Array) -> tuple[Array, Array]:
    """f(y), and the trace of its Jacobian by one directional derivative for each dimension of an image."""
    value, derivative = jax.linearize(f, y)
    size = y[0].size

    def entry(j: Array) -> Array:
        basis = jnp.broadcast_to(jax.nn.one_hot(j, size, dtype=y.dtype), (y.shape[0], size)).reshape(y.shape)
        return derivative(basis).reshape(-1, size)[:, j]

    return value, jax.lax.map(entry, jnp.arange(size)).sum(0)


def hutchinson(probes: Array) -> Divergence:
    """tr(df/dy) = E v^T (df/dy) v, for v of zero mean and unit covariance (Hutchinson 1990; Grathwohl et al. 2019).

    probes is [k b ...]: k of them an image, averaged, the same along the whole flow. Of signs (Rademacher) the
    estimate varies less than of normal numbers.
    """

    def divergence(f: Callable[[Array], Array], y: Array) -> tuple[Array, Array]:
        value, derivative = jax.linearize(f, y)
        along = jax.lax.map(lambda v: (v * derivative(v)).sum(_axes(v)), probes)
        return value, along.mean(0)

    return divergence


def variational_nll(log_prob: Array, *, noise: Array, level: Level, reconstruction: Array) -> Array:
    """-log p(x_0) <= -log p(x_t) + log q(x_t | x_0) - log p(x_0 | x_t): dequantised by the forward process, [b].

    log_prob [b] is ``ode_log_prob`` at x_t = alpha x_0 + sigma noise, reconstruction [b] the nats of a decoder. The
    entropy of q is counted with the noise that was drawn, which takes the most of the variance out.
    """
    log_q = _log_standard_normal(noise) - noise[0].size * jnp.log(level.sigma)
    return -log_prob + log_q + reconstruction


def uniform_nll(log_prob: Array, *, size: int, level: Level, levels: int) -> Array:
    """-log p(x_0) <= -log p(x) - D log(bin): uniform dequantisation (Theis et al. 2016), [b].

    log_prob [b] is ``ode_log_prob`` at alpha x, x uniform in the bins around x_0, D = size the number of pixels. Only
    where ``check_uniform`` passes: a density with gaps between the levels would be measured in the gaps.
    """
    return -log_prob - size * (jnp.log(level.alpha) + jnp.log(2 / (levels - 1)))


def check_uniform(levels: int, level: Level) -> None:
    """InputError where bins of this many levels over [-1, 1] are wide beside the least noise; a warning if wider."""
    width, noise = 2 / (levels - 1), float(level.sigma / level.alpha)
    if width > MOST_BIN_TO_NOISE * noise:
        raise InputError(
            f"uniform dequantisation needs bins at most {MOST_BIN_TO_NOISE:g} times as wide as the least noise: here "
            f"the {levels} levels are {width:.3g} apart and the noise is {noise:.3g}: use variational dequantisation"
        )
    if width > noise * (1 + 1e-3):  # which float32 is not sure of
        logger.warning(
            "uniform dequantisation of %d levels %.3g apart, %.2g times the least noise: it falls partly between the "
            "levels that the model knows, and the figure is higher for it; variational dequantisation does not",
            levels,
            width,
            width / noise,
        )


def _scale(schedule: NoiseSchedule, h: Array) -> Array:
    """What x_t is multiplied by to give y."""
    return variance_preserving(h, -2 * h).alpha / schedule.level_at(-2 * h).alpha


def _runge_kutta(flow: Flow, h: Array, state: tuple[Array, Array], step: Array) -> tuple[Array, Array]:
    """One classical step of order 4 of (y, the integral of div)."""
    y, _ = state
    nodes, weights = (jnp.asarray(table, y.dtype) for table in (NODES, WEIGHTS))

    def stage(i: Array, carry: tuple) -> tuple:
        (velocity, _), sums = carry
        rates = flow(h + nodes[i] * step, y + nodes[i] * step * velocity)
        return rates, jax.tree.map(lambda total, rate: total + weights[i] * step * rate, sums, rates)

    # A loop over the four stages, so that the network is compiled once.
    return jax.lax.fori_loop(0, 4, stage, (jax.tree.map(jnp.zeros_like, state), state))[1]


def _log_standard_normal(y: Array) -> Array:
    """log N(y; 0, I) for each image [b]."""
    return -0.5 * (jnp.square(y).sum(_axes(y)) + y[0].size * jnp.log(2 * jnp.pi))


def _axes(y: Array) -> tuple[int, ...]:
    """All but the first."""
    return tuple(range(1, y.ndim))
