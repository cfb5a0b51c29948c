"""The samplers that a config or a command line can name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.diffusion import NoiseSchedule
from marble.errors import InputError
from marble.sampling import (
    DDIM,
    ODE,
    PNDM,
    Ancestral,
    Consistency,
    Euler,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    dpm_solver_2m,
    dpm_solver_3m,
    dpm_solver_sde,
)
from marble.schema import look_up, schema

PREDICTORS = {"ancestral": Ancestral, "ddim": DDIM, "euler": Euler, "heun": Heun}


def predictor_corrector(
    schedule: NoiseSchedule,
    predictor: Literal["ancestral", "ddim", "euler", "heun"] = "ancestral",
    snr: float = 0.16,
    num_corrections: int = 1,
) -> PredictorCorrector:
    """A predictor-corrector whose predictor has its own defaults."""
    return PredictorCorrector(with_schedule(PREDICTORS[predictor], schedule), snr, num_corrections)


def with_schedule(sampler: Callable[..., Sampler], schedule: NoiseSchedule, **arguments: Any) -> Sampler:
    """A sampler with these arguments, checked; those that ask for levels off their grid get the schedule too."""
    asks = "schedule" in inspect.signature(sampler).parameters
    if asks and isinstance(schedule, nn.Module):
        raise InputError("this sampler leaves its grid, and can't where the schedule is learned: choose another")
    built = sampler(schedule, **arguments) if asks else sampler(**arguments)
    jax.eval_shape(lambda: built.init(jnp.zeros((1, 1)), 1))
    return built


SAMPLERS = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "pndm": PNDM,
    "dpm_solver_2m": dpm_solver_2m,
    "dpm_solver_3m": dpm_solver_3m,
    "dpm_solver_sde": dpm_solver_sde,
    "unipc": UniPC,
    "euler": Euler,
    "heun": Heun,
    "ode": ODE,
    "predictor_corrector": predictor_corrector,
    "consistency": Consistency,
}
"""The first is the default."""


def named_sampler(schedule: NoiseSchedule, settings: Mapping[str, Any], name: str) -> Sampler:
    """The sampler of that name, with those of the settings that it has: what a command line's --sampler means."""
    make = look_up("sampling.sampler", SAMPLERS, name)
    return with_schedule(make, schedule, **{k: v for k, v in settings.items() if k in schema(make)})
