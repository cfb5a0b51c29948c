"""Time grids: which of the T noise levels a sampler visits. Made on the host, apart from the samplers."""

from typing import Literal, get_args

import numpy as np

from marble.diffusion.schedules import NoiseSchedule
from marble.errors import InputError
from marble.typing import Level

TimestepSpacing = Literal["linspace", "leading", "trailing"]


def timesteps(num_train_timesteps: int, num_steps: int, spacing: TimestepSpacing = "linspace") -> np.ndarray:
    """The num_steps timesteps to visit, from noisy to clean: integers in 0..T-1, falling.

    linspace has both ends, 0 and T - 1 (Nichol & Dhariwal 2021); leading and trailing go by the stride T / num_steps
    from 0 up, without T - 1, and from T - 1 down, without 0 (Lin et al. 2024, table 2). All are the full grid for
    num_steps = T. InputError for num_steps outside 1..T or an unknown spacing.
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise InputError(
            f"{num_steps} sampling steps: give between 1 and {num_train_timesteps}, the number of training steps"
        )
    count = np.arange(num_steps)
    stride = num_train_timesteps / num_steps
    match spacing:
        case "linspace":
            # From the top down, so that a single step starts from the noise.
            rising = np.round(np.linspace(num_train_timesteps - 1, 0, num_steps))[::-1]
        case "leading":
            rising = count * (num_train_timesteps // num_steps)
        case "trailing":
            rising = np.round(num_train_timesteps - count[::-1] * stride) - 1
        case _:
            raise InputError(f"timestep_spacing {spacing!r} is not one of {', '.join(get_args(TimestepSpacing))}")
    return rising[::-1].astype(np.int32)


def levels(
    schedule: NoiseSchedule,
    num_steps: int | None = None,
    spacing: TimestepSpacing = "linspace",
    *,
    length: int | None = None,
) -> Level:
    """The levels [num_steps + 1] of that grid and, last, the clean one; num_steps None is every step.

    With length, the arrays are padded to [length + 1] with further clean levels, so that grids of different
    num_steps fit one compiled sampler. float32 arrays on the host. In continuous time the levels are evenly spaced from
    t = 1 to t = 0, and num_steps must be given, else an InputError.
    """
    total = schedule.num_train_timesteps
    if total is None:
        return _continuous(schedule, num_steps, length)
    steps = timesteps(total, total if num_steps is None else num_steps, spacing)
    clean = 1 + (0 if length is None else length - len(steps))
    return Level(
        t=np.append(steps, np.zeros(clean, np.int32)),
        alpha=np.append(np.asarray(schedule.alpha)[steps], np.ones(clean)).astype(np.float32),
        sigma=np.append(np.asarray(schedule.sigma)[steps], np.zeros(clean)).astype(np.float32),
    )


def _continuous(schedule: NoiseSchedule, num_steps: int | None, length: int | None) -> Level:
    if num_steps is None or num_steps < 1:
        raise InputError(f"{num_steps} sampling steps: in continuous time give their number, at least 1")
    level = schedule.level(np.linspace(1, 0, num_steps, dtype=np.float32))
    clean = np.ones(1 + (0 if length is None else length - num_steps), np.float32)
    return Level(
        t=np.append(np.asarray(level.t), 0 * clean),
        alpha=np.append(np.asarray(level.alpha), clean),
        sigma=np.append(np.asarray(level.sigma), 0 * clean),
    )
