"""Time grids: which noise levels a sampler visits. Made on the host, apart from the samplers.

By the time: linspace, leading, trailing.  By the noise: karras, even in (sigma / alpha)^(1 / rho), and log_snr. Both
kinds are for schedules in steps and in continuous time, where the step t = T - 1 is the time 1.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from marble.diffusion.schedules import LOWEST_LOG_SNR, MOST_IMAGE, NoiseSchedule, Schedule, image_left
from marble.errors import InputError
from marble.typing import Array, Level

logger = logging.getLogger(__name__)

CLEAN = Level(t=0, alpha=1.0, sigma=0.0)
"""The level of images themselves; its time is not read."""
TimestepSpacing = Literal["linspace", "leading", "trailing", "karras", "log_snr"]


def section_timesteps(num_train_timesteps: int, counts: Sequence[int]) -> np.ndarray:
    """The sum of counts timesteps to visit: so many of each of len(counts) equal parts of 0..T-1, falling.

    Each part's are even and have both of its ends, the first part being the cleanest (Nichol & Dhariwal 2021's code).
    InputError for a count below 1 or above its part, or a schedule in continuous time.
    """
    check_steps(num_train_timesteps, len(counts))
    parts = np.array_split(np.arange(num_train_timesteps), len(counts))
    steps = [part[timesteps(len(part), count)[::-1]] for part, count in zip(parts, counts, strict=True)]
    return np.concatenate(steps)[::-1].astype(np.int32)


def timesteps(
    num_train_timesteps: int, num_steps: int, spacing: TimestepSpacing = "linspace", *, steps_offset: int = 0
) -> np.ndarray:
    """The num_steps timesteps to visit, from noisy to clean: integers in 0..T-1, falling.

    linspace has both ends, 0 and T - 1 (Nichol & Dhariwal 2021). leading goes from 0 up by the whole stride
    T // num_steps, as Stable Diffusion does; trailing from T - 1 down by T / num_steps, each step rounded (Lin et al.
    2024, table 2). All are the full grid for num_steps = T. steps_offset is added to those of leading: Stable Diffusion
    has 1. InputError for num_steps outside 1..T, an offset that leads out of 0..T-1, or a spacing that is none of the
    three.
    """
    check_steps(num_train_timesteps, num_steps)
    count = np.arange(num_steps)
    stride = num_train_timesteps / num_steps
    match spacing:
        case "linspace":
            # From the top down, so that a single step starts from the noise.
            rising = np.round(np.linspace(num_train_timesteps - 1, 0, num_steps))[::-1]
        case "leading":
            rising = count * (num_train_timesteps // num_steps) + steps_offset
        case "trailing":
            rising = np.round(num_train_timesteps - count[::-1] * stride) - 1
        case _:
            raise _unknown(spacing)
    if rising[0] < 0 or rising[-1] >= num_train_timesteps:
        raise InputError(
            f"steps_offset={steps_offset} leads to step {rising[-1]}, outside 0..{num_train_timesteps - 1}"
        )
    return rising[::-1].astype(np.int32)


def times(num_steps: int, spacing: TimestepSpacing = "linspace") -> np.ndarray:
    """The same in continuous time: num_steps times in [0, 1], falling."""
    even = np.arange(num_steps, 0, -1) / num_steps
    match spacing:
        case "linspace":
            return np.linspace(1, 0, num_steps)
        case "leading":
            return even - 1 / num_steps
        case "trailing":
            return even
    raise _unknown(spacing)


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    """sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho [N] (Karras 2022, eq. 5).

    Noise-to-signal ratios, sigma / alpha.
    """
    return np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps) ** rho


def levels(
    schedule: NoiseSchedule,
    num_steps: int | Sequence[int] | None = None,
    spacing: TimestepSpacing = "linspace",
    *,
    steps_offset: int = 0,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    set_alpha_to_one: bool = True,
    length: int | None = None,
) -> Level:
    """The levels [num_steps + 1] of that grid and, last, the clean one; num_steps None is every step.

    Several num_steps are so many in each of as many equal parts: ``section_timesteps``, which has a spacing of its own.
    The spacings karras (with rho) and log_snr go from the noise-to-signal ratio sigma_max to sigma_min, by default the
    ends of the schedule. Without set_alpha_to_one the last level is that of step 0 in place of the clean one, as Stable
    Diffusion's DDIM and PNDM have it: its trace of noise stays in what is sampled. With length, the arrays are padded
    to [length + 1] with the last level, so that grids of different num_steps fit one compiled sampler. float32 arrays
    on the host. InputError for values out of range. A warning where much of the image is left at the first level, at
    which sampling begins with pure noise.
    """
    total = schedule.num_train_timesteps
    if isinstance(num_steps, Sequence):
        steps = section_timesteps(total, num_steps)
        return _ended(_of_steps(schedule, steps), 1 + (0 if length is None else length - len(steps)))
    num_steps = total if num_steps is None else num_steps
    check_steps(total, num_steps)
    match spacing:
        case "karras":
            low, high = noise_bounds(schedule, sigma_min, sigma_max)
            grid = _float64(schedule.level_at, -2 * np.log(karras_sigmas(num_steps, low, high, rho)))
        case "log_snr":
            low, high = noise_bounds(schedule, sigma_min, sigma_max)
            grid = _float64(schedule.level_at, np.linspace(-2 * np.log(high), -2 * np.log(low), num_steps))
        case _ if total is None:
            grid = _float64(schedule.level, times(num_steps, spacing))
        case _:
            steps = timesteps(total, num_steps, spacing, steps_offset=steps_offset)
            grid = _of_steps(schedule, steps)
    _warn_of_image(schedule, grid, spacing)
    last = CLEAN if set_alpha_to_one else _least(schedule, grid, spacing)
    return _ended(grid, 1 + (0 if length is None else length - num_steps), last)


def _least(schedule: NoiseSchedule, grid: Level, spacing: TimestepSpacing) -> Level:
    """The level of step 0; InputError where there is none, or the grid comes to it before its end."""
    if schedule.num_train_timesteps is None:
        raise InputError(
            "set_alpha_to_one=False is for schedules in steps, and this is in continuous time: leave it out"
        )
    least = jax.tree.map(lambda table: table[0], _of_steps(schedule, np.array([0])))
    if grid.sigma[-1] <= (1 + 1e-4) * least.sigma:  # but for rounding
        raise InputError(
            f"set_alpha_to_one=False ends at step 0, and the spacing {spacing} comes to it a step before: take the "
            "spacing leading with steps_offset=1, or leave it out"
        )
    return least


def _warn_of_image(schedule: NoiseSchedule, grid: Level, spacing: TimestepSpacing) -> None:
    """A warning where sampling would start from pure noise at a level that has much image, and could start noisier."""
    left = image_left(jax.tree.map(lambda table: table[0], grid))
    if left <= MOST_IMAGE:
        return
    total = schedule.num_train_timesteps
    end = _of_steps(schedule, [total - 1]) if total else _float64(schedule.level, np.array([1.0]))
    if left > 1.01 * image_left(end)[0]:
        by_noise = spacing in ("karras", "log_snr")
        remedy = "raise sigma_max" if by_noise else "take more steps, or the spacing trailing or linspace"
        logger.warning(
            "timestep_spacing=%r with %d steps starts at t=%g, where %.0f %% of the image is left, and sampling begins "
            "there with pure noise: %s",
            spacing,
            len(grid.t),
            round(float(grid.t[0]), 2),
            100 * left,
            remedy,
        )


def _of_steps(schedule: Schedule, steps: np.ndarray) -> Level:
    return Level(steps, np.asarray(schedule.alpha)[steps], np.asarray(schedule.sigma)[steps])


def check_steps(num_train_timesteps: int | None, num_steps: int | None) -> None:
    """InputError for a number of sampling steps that is not there, below 1, or above T."""
    if num_steps is None:
        raise InputError("a schedule in continuous time has no number of steps of its own: give one")
    if not isinstance(num_steps, int | np.integer) or isinstance(num_steps, bool):
        raise InputError(f"{num_steps} sampling steps: give a whole number")
    if not 1 <= num_steps <= (num_train_timesteps or num_steps):
        most = "" if num_train_timesteps is None else f" and {num_train_timesteps}, the number of training steps"
        raise InputError(f"{num_steps} sampling steps: give {'between 1' + most if most else 'at least 1'}")


def _unknown(spacing: str) -> InputError:
    return InputError(f"timestep_spacing {spacing!r} is not one of {', '.join(get_args(TimestepSpacing))}")


def noise_bounds(schedule: NoiseSchedule, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """The least and the most sigma / alpha of a grid: those given, else those of the schedule's ends."""
    total = schedule.num_train_timesteps
    ends = _float64(schedule.level, np.array([0.0, 1.0]) if total is None else np.array([0, total - 1]))
    if sigma_max is None and ends.alpha[1] <= np.exp(0.5 * LOWEST_LOG_SNR):
        raise InputError("this schedule ends without any image, at infinite sigma / alpha: give sigma_max")
    low = ends.sigma[0] / ends.alpha[0] if sigma_min is None else sigma_min
    high = ends.sigma[1] / ends.alpha[1] if sigma_max is None else sigma_max
    if not 0 < low < high:
        raise InputError(f"sigma_min={low} must be above 0 and below sigma_max={high}")
    return float(low), float(high)


def _float64(make: Callable[[Array], Level], values: np.ndarray) -> Level:
    """The levels of these values, in float64 whatever the caller computes in, and at once under a jit."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return jax.tree.map(np.asarray, make(jnp.asarray(values)))


def _ended(grid: Level, count: int, last: Level = CLEAN) -> Level:
    """The grid in float32 and, after it, the last level count times."""
    t = grid.t if np.issubdtype(grid.t.dtype, np.integer) else grid.t.astype(np.float32)
    return Level(
        t=np.append(t, np.full(count, last.t, t.dtype)),
        alpha=np.append(grid.alpha, np.full(count, last.alpha)).astype(np.float32),
        sigma=np.append(grid.sigma, np.full(count, last.sigma)).astype(np.float32),
    )
