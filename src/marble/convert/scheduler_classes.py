"""diffusers' classes of schedulers and our samplers: what each is on the other side, and what configs leave unsaid."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from marble import diffusion
from marble.errors import InputError

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
Named = tuple[str, dict[str, Any]]
"""A sampler's name, and its arguments."""

SCHEDULES = {
    "linear": diffusion.linear,
    "scaled_linear": diffusion.scaled_linear,
    "squaredcos_cap_v2": diffusion.squaredcos_cap_v2,
    "sigmoid": diffusion.sigmoid,
}
"""Those that have one name here and there."""
PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
"""prediction_type, theirs: ours."""
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
"""Those that end in _log are the same variance. diffusers' learned is not ours, which is of the logarithm."""
TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")
"""timestep_spacing, of grids of steps."""
SPACINGS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "log_snr", "use_lu_lambdas": "log_snr"}
"""The keys that ask for a grid of noise levels: our timestep_spacing."""


class Kind(NamedTuple):
    """What a class of schedulers is here."""

    sampler: Callable[[Config], Named]
    """Of a config."""
    clips: bool | None = None
    """Whether it clips where its config says nothing of it; None is that it can't, whatever a config says."""
    spacing: str = "linspace"
    """Where its config says nothing."""
    betas: tuple[float, float] = (0.0001, 0.02)
    """beta_start and beta_end, where its config says nothing."""
    leaves_out_last: bool = False
    """Whether it makes one step more, and leaves the cleanest out, but for the spacing trailing."""
    ends_clean: bool | None = None
    """What leaving set_alpha_to_one out means; None for those that read final_sigmas_type in its place."""
    has_sigmas: bool = True
    """Whether its grid can be one of noise levels."""

    @property
    def can_threshold(self) -> bool:
        """Whether it knows dynamic thresholding."""
        return bool(self.clips) or self.leaves_out_last


def name_of(config: Config) -> str:
    """Its class; InputError where it names none."""
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise InputError("the scheduler's config has no _class_name: it is needed to know what the scheduler is")
    return name.removeprefix("Flax")


def ancestral(config: Config) -> Named:
    """DDPM's own step."""
    # Euler's ancestral step is the same one, with the variance fixed_small, for x / alpha.
    variance = config.get("variance_type") if name_of(config).startswith("DDPM") else None
    return "ancestral", {"variance_type": VARIANCES[variance or "fixed_small"]}


def ddim(config: Config) -> Named:
    """DDIM, whose eta is in no config."""
    return "ddim", {}


def no_such(config: Config) -> Named:
    """One that is not here."""
    logger.warning("marble has no sampler %s: ddim takes its place; choose another if you like", name_of(config))
    return "ddim", {}


def pndm(config: Config) -> Named:
    """PNDM, or PLMS where it skips the Runge-Kutta steps."""
    return "pndm", {"skip_prk_steps": bool(config.get("skip_prk_steps", False))}


def dpm_solver(config: Config) -> Named:
    """DPM-Solver++ of several steps, by its order, and its stochastic form."""
    order, algorithm = config.get("solver_order", 2), config.get("algorithm_type", "dpmsolver++")
    arguments = {"lower_order_final": bool(config.get("lower_order_final", True))}
    if algorithm not in ("dpmsolver++", "sde-dpmsolver++") or config.get("solver_type", "midpoint") != "midpoint":
        logger.warning("marble's DPM-Solver is dpmsolver++ with the solver_type midpoint: it is taken here")
    if algorithm.startswith("sde"):
        return "dpm_solver_sde", arguments
    if order == 3:
        return "dpm_solver_3m", {"corrected": False, **arguments}
    if order != 2:
        logger.warning("marble has no DPM-Solver of order %s by name: it takes order 2", order)
    return "dpm_solver_2m", arguments


def unipc(config: Config) -> Named:
    """UniPC."""
    if config.get("disable_corrector") or not config.get("predict_x0", True):
        logger.warning("marble's UniPC predicts x_0, with its corrector in every step: it is taken here")
    variant = config.get("solver_type", "bh2")
    return "unipc", {
        "order": config.get("solver_order", 2),
        "variant": variant if variant in ("bh1", "bh2") else "bh2",
        "lower_order_final": bool(config.get("lower_order_final", True)),
    }


def euler(config: Config) -> Named:
    """Euler's step along the ODE."""
    return "euler", {}


def heun(config: Config) -> Named:
    """Heun's, which asks the network twice."""
    return "heun", {}


SD_BETAS = (0.00085, 0.012)
DDPM, DDIM = (
    Kind(sampler, clips=True, spacing="leading", ends_clean=True, has_sigmas=False) for sampler in (ancestral, ddim)
)
KINDS: Mapping[str, Kind] = {
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "PNDMScheduler": Kind(pndm, spacing="leading", ends_clean=False, has_sigmas=False),
    "DPMSolverMultistepScheduler": Kind(dpm_solver, leaves_out_last=True),
    "UniPCMultistepScheduler": Kind(unipc, leaves_out_last=True),
    "EulerDiscreteScheduler": Kind(euler),
    "EulerAncestralDiscreteScheduler": Kind(ancestral, has_sigmas=False),
    "HeunDiscreteScheduler": Kind(heun, clips=False, betas=SD_BETAS),
    "LMSDiscreteScheduler": Kind(no_such),
    "KDPM2DiscreteScheduler": Kind(no_such, betas=SD_BETAS),
    "KDPM2AncestralDiscreteScheduler": Kind(no_such, betas=SD_BETAS),
    "DPMSolverSinglestepScheduler": Kind(no_such, leaves_out_last=True),
    "DPMSolverSDEScheduler": Kind(no_such, betas=SD_BETAS),
    "DEISMultistepScheduler": Kind(no_such, leaves_out_last=True),
}


def _solver(name: str, sampling: Config, **values: Any) -> dict[str, Any]:
    return {"_class_name": name, "lower_order_final": sampling.get("lower_order_final", True), **values}


def _written_3m(sampling: Config) -> dict[str, Any]:
    if sampling.get("corrected", True):
        logger.warning("diffusers' DPM-Solver of order 3 is the published one, sampling.corrected=False here")
    return _solver("DPMSolverMultistepScheduler", sampling, solver_order=3, algorithm_type="dpmsolver++")


WRITTEN: Mapping[str, Callable[[Config], dict[str, Any]]] = {
    "ancestral": lambda _: {"_class_name": "DDPMScheduler"},
    "ddim": lambda sampling: {
        "_class_name": "DDIMScheduler",
        "set_alpha_to_one": sampling.get("set_alpha_to_one", True),
    },
    "pndm": lambda sampling: {
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": sampling.get("skip_prk_steps", False),
        "set_alpha_to_one": sampling.get("set_alpha_to_one", True),
    },
    "dpm_solver_2m": lambda sampling: _solver(
        "DPMSolverMultistepScheduler", sampling, solver_order=2, algorithm_type="dpmsolver++"
    ),
    "dpm_solver_3m": _written_3m,
    "dpm_solver_sde": lambda sampling: _solver(
        "DPMSolverMultistepScheduler", sampling, solver_order=2, algorithm_type="sde-dpmsolver++"
    ),
    "unipc": lambda sampling: _solver(
        "UniPCMultistepScheduler",
        sampling,
        solver_order=sampling.get("order", 2),
        solver_type=sampling.get("variant", "bh2"),
    ),
    "euler": lambda _: {"_class_name": "EulerDiscreteScheduler"},
    "heun": lambda _: {"_class_name": "HeunDiscreteScheduler"},
}
"""What each of our samplers is there, of the section ``sampling`` of a config."""
