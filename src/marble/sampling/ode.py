"""The probability-flow ODE, solved to a tolerance (Song et al. 2021, section 4.3), each image with steps of its own.

Any alpha and sigma are those of a point on the circle, times a scale: with phi = atan(sigma / alpha), from 0 at the
clean level to pi/2 where no image is left, and y = x / sqrt(alpha² + sigma²),

    dy / dphi = cos(phi) eps - sin(phi) x_0                            Salimans & Ho 2022, appendix D: their v.

Neither y, of the data's size, nor the interval nor the derivative grows without bound, so that one tolerance serves
from end to end. The steps are those of Dormand & Prince 1980: order 5, and the difference from order 4 is the error
that is held to the tolerance.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marble.diffusion.schedules import LOWEST_LOG_SNR, NoiseSchedule
from marble.sampling.sampler import Number, Step, check_between
from marble.typing import Array, DenoiseFn, Level, coefficient_like

STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
"""Row i: the weights of the derivatives before in stage i; the last row is the step itself."""
TIMES = STAGES.sum(1)
FOURTH = np.array([5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40])
"""The weights of the step of order 4."""
FIRST_STEP, SMALLEST_STEP = 0.05, 1e-6
"""In phi. A step this small is taken whatever its error: below it there is only rounding."""


class Pace(NamedTuple):
    """What the solver carries from one level to the next, for each image [b]."""

    step: Array
    """The size of the next step in phi."""
    evaluations: Array
    """How often the network was asked about this image so far."""


class ODE(NamedTuple):
    """An adaptive solver: it goes from each level of the grid to the next in as many steps as the tolerance asks for.

    The grid says where it has to stop; a grid of one step is enough. Before the clean level it goes to the cleanest
    one of the schedule, and from there to the predicted x_0.
    """

    schedule: NoiseSchedule
    rtol: Number = 1e-4
    atol: Number = 1e-4
    """A step's error, in the root mean square over the image, is at most atol + rtol |y|."""

    def init(self, x: Array, num_steps: int | Array) -> Pace:
        check_between("rtol", self.rtol, 0)
        check_between("atol", self.atol, 1e-12)
        images = x.shape[:1]
        return Pace(jnp.full(images, FIRST_STEP, jnp.promote_types(x.dtype, jnp.float32)), jnp.zeros(images, jnp.int32))

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: Pace, keys: Array) -> Step:
        continuous = self.schedule.num_train_timesteps is None
        first = jnp.zeros((), jnp.promote_types(x.dtype, jnp.float32) if continuous else jnp.int32)
        to_clean = level_s.sigma == 0
        end = jax.tree.map(lambda a, b: jnp.where(to_clean, a, b), self.schedule.level(first), level_s)
        x_s, x_0, pace = self.solve(denoise_fn, level_t, end, x, carry)
        return Step(jnp.where(coefficient_like(to_clean, x) > 0, x_0, x_s), x_0, pace)

    def solve(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, pace: Pace
    ) -> tuple[Array, Array, Pace]:
        """(x_s, the x_0 predicted there, pace): from x_t [b ...] to a level_s that is not the clean one."""
        derivative = self.slope(denoise_fn, x)
        precision = jnp.promote_types(x.dtype, jnp.float32)
        start, end = (jnp.broadcast_to(angle(level).astype(precision), x.shape[:1]) for level in (level_t, level_s))
        y = x.astype(precision) / coefficient_like(jnp.hypot(level_t.alpha, level_t.sigma), x).astype(precision)
        phi, y, slope, pace = self.solved(derivative, start, end, y, pace)
        x_s = coefficient_like(jnp.hypot(level_s.alpha, level_s.sigma), y) * y
        x_0 = coefficient_like(jnp.cos(phi), y) * y - coefficient_like(jnp.sin(phi), y) * slope
        return x_s.astype(x.dtype), x_0.astype(x.dtype), pace

    def slope(self, denoise_fn: DenoiseFn, x: Array) -> Callable[[Array, Array], Array]:
        """dy / dphi at phi [b] and y [b ...]; the network gets the dtype of x."""

        def derivative(phi: Array, y: Array) -> Array:
            level = level_of(self.schedule, phi)
            scale = coefficient_like(jnp.hypot(level.alpha, level.sigma), y)
            x_0, eps, _ = denoise_fn((scale * y).astype(x.dtype), level)
            return coefficient_like(jnp.cos(phi), y) * eps - coefficient_like(jnp.sin(phi), y) * x_0

        return derivative

    def solved(
        self, derivative: Callable[[Array, Array], Array], start: Array, end: Array, y: Array, pace: Pace
    ) -> "_State":
        """From start [b] down to end [b]."""
        state = _State(start, y, derivative(start, y), pace._replace(evaluations=pace.evaluations + 1))
        return jax.lax.while_loop(
            lambda state: jnp.any(_active(state, end)), lambda state: self._advance(derivative, state, end), state
        )

    def _advance(self, derivative: Callable[[Array, Array], Array], state: "_State", end: Array) -> "_State":
        """One step tried, and taken by the images whose error it keeps within the tolerance."""
        active = _active(state, end)
        size = jnp.where(active, jnp.minimum(state.pace.step, state.phi - end), 0.0)
        y, slopes = _stages(derivative, state, size)
        difference = jnp.tensordot(jnp.asarray(STAGES[-1] - FOURTH, y.dtype), slopes, 1) * coefficient_like(size, y)
        tolerated = self.atol + self.rtol * jnp.maximum(jnp.abs(state.y), jnp.abs(y))
        error = jnp.sqrt(jnp.mean((difference / tolerated) ** 2, axis=tuple(range(1, y.ndim))))
        # An error that is no number ends the image's way: it can't be made smaller.
        taken = active & ((error <= 1) | ~jnp.isfinite(error) | (size <= SMALLEST_STEP))
        # At most twice as large a step: the estimate of an error can be small by chance.
        fitting = _rounded(size * jnp.clip(0.9 * jnp.maximum(error, 1e-10) ** -0.2, 0.2, 2.0))
        was_cut = taken & (size < state.pace.step)
        step = jnp.where(active, jnp.where(was_cut, jnp.maximum(fitting, state.pace.step), fitting), state.pace.step)
        phi = jnp.where(taken, jnp.where(size < state.pace.step, end, state.phi - size), state.phi)
        of_image = coefficient_like(taken, y) > 0
        return _State(
            phi,
            jnp.where(of_image, y, state.y),
            jnp.where(of_image, slopes[-1], state.slope),
            Pace(step, state.pace.evaluations + active * (len(STAGES) - 1)),
        )


def ascended(
    ode: ODE, denoise_fn: DenoiseFn, level_s: Level, level_t: Level, x: Array, pace: Pace
) -> tuple[Array, Pace]:
    """(x_t, pace): from x_s [b ...] up to a noisier level_t, the other way along the path of ``ODE.solve``.

    Counted from the other end, as start + end - phi, the angle falls here too.
    """
    derivative, precision = ode.slope(denoise_fn, x), jnp.promote_types(x.dtype, jnp.float32)
    low, high = (jnp.broadcast_to(angle(level).astype(precision), x.shape[:1]) for level in (level_s, level_t))
    y = x.astype(precision) / coefficient_like(jnp.hypot(level_s.alpha, level_s.sigma), x).astype(precision)
    _, y, _, pace = ode.solved(lambda phi, y: -derivative(low + high - phi, y), high, low, y, pace)
    return (coefficient_like(jnp.hypot(level_t.alpha, level_t.sigma), y) * y).astype(x.dtype), pace


def _rounded(step: Array) -> Array:
    """The largest of the numbers 2^k and 1.5 2^k that is at most the step.

    What rounds differently in another batch would else move each step a little, and the next one more: an image's error
    would be another, within the tolerance, in each.
    """
    mantissa, exponent = jnp.frexp(step)
    return jnp.ldexp(jnp.where(mantissa < 0.75, 0.5, 0.75).astype(step.dtype), exponent)


class _State(NamedTuple):
    phi: Array
    y: Array
    slope: Array
    pace: Pace


def _active(state: _State, end: Array) -> Array:
    """Which images [b] are still on their way, and are numbers."""
    return (state.phi > end) & jnp.all(jnp.isfinite(state.y), axis=tuple(range(1, state.y.ndim)))


def _stages(derivative: Callable[[Array, Array], Array], state: _State, size: Array) -> tuple[Array, Array]:
    """(y after a step down by ``size``, the derivatives [7 b ...] of its stages, the last of them there)."""
    weights, times = jnp.asarray(STAGES, state.y.dtype), jnp.asarray(TIMES, state.y.dtype)
    down = coefficient_like(size, state.y)

    def stage(i: Array, loop: tuple[Array, Array]) -> tuple[Array, Array]:
        _, slopes = loop
        y = state.y - down * jnp.tensordot(weights[i], slopes, 1)
        return y, slopes.at[i].set(derivative(state.phi - times[i] * size, y))

    # A loop, so that the compiled program has the network once, not six times. The first derivative is known.
    slopes = jnp.zeros((len(STAGES), *state.y.shape), state.y.dtype).at[0].set(state.slope)
    return jax.lax.fori_loop(1, len(STAGES), stage, (state.y, slopes))


def angle(level: Level) -> Array:
    """phi = atan(sigma / alpha)."""
    return jnp.arctan2(jnp.asarray(level.sigma), jnp.asarray(level.alpha))


def level_of(schedule: NoiseSchedule, phi: Array) -> Level:
    """The schedule's level at an angle above 0."""
    # Where no image is left, rounding could make the cosine 0 or negative.
    cosine = jnp.maximum(jnp.cos(phi), jnp.exp(0.5 * LOWEST_LOG_SNR).astype(phi.dtype))
    return schedule.level_at(2 * (jnp.log(cosine) - jnp.log(jnp.sin(phi))))
