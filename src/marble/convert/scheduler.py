"""diffusers' ``scheduler_config.json``: the sections ``diffusion`` and ``sampling`` of a config, both ways.

What changes the model's meaning - the betas, what is predicted, the variance that is learned - is exact, or refused.
How to sample is the user's choice: a sampler that is not here becomes ddim, and what differs is said in the log. So
does the last step: our grids end at the clean image, with x_0 as predicted, and theirs, where ``set_alpha_to_one`` is
False or ``final_sigmas_type`` is sigma_min, at the noise of step 0, with alpha_0 x_0 + sigma_0 eps.

Configs are handed on from class to class there, with keys that the next one does not read: nor are they read here.
"""

import inspect
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
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
"""Those that end in _log are the same variance. diffusers' learned is not ours, which is of the logarithm."""
SPACINGS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "log_snr", "use_lu_lambdas": "log_snr"}


class Kind(NamedTuple):
    """What a class of schedulers is here."""

    sampler: Callable[[Config], Named]
    clips: bool | None = None
    """Whether it clips where its config says nothing of it; None is that it can't, whatever a config says."""
    spacing: str = "linspace"
    """Where its config says nothing."""
    betas: tuple[float, float] = (0.0001, 0.02)
    leaves_out_last: bool = False
    """Whether it makes one step more, and leaves the cleanest out, but for the spacing trailing."""
    ends_clean: bool | None = None
    """What leaving set_alpha_to_one out means; None for those that read final_sigmas_type in its place."""
    has_sigmas: bool = True
    """Whether its grid can be one of noise levels."""


def sections_of(config: Config) -> dict[str, dict[str, Any]]:
    """``{"diffusion": ..., "sampling": ...}`` of a scheduler_config.json; InputError for what is not supported."""
    name = _name(config)
    if name not in KINDS:
        raise InputError(
            f"the scheduler {name} is not supported: those of other models than DDPM's say x_t otherwise. "
            f"What is supported is {', '.join(KINDS)}"
        )
    _check(config, name)
    _say_last_step(config, name)
    sampler, arguments = KINDS[name].sampler(config)
    return {
        "diffusion": _diffusion(config, name),
        "sampling": {"sampler": sampler, **arguments, **_clipping(config, name), **_grid(config, name)},
    }


def scheduler_of(marble_config: Config) -> dict[str, Any]:
    """The scheduler_config.json of a config, with its ``_class_name``. InputError where diffusers has no such model.

    diffusers is told of eta, churn and the number of steps when it samples: they are in no config.
    """
    words, sampling = marble_config.get("diffusion") or {}, marble_config.get("sampling") or {}
    made = WRITTEN[_writable(sampling.get("sampler") or "ancestral", words)](sampling)
    prediction = _ours_to_theirs(PREDICTIONS, words.get("prediction_type", "eps"), "diffusion.prediction_type")
    made |= {**_betas(words), "trained_betas": None, "prediction_type": prediction}
    made["rescale_betas_zero_snr"] = bool(words.get("rescale_betas_zero_snr", False))
    if made["_class_name"] == "DDPMScheduler":
        variance = sampling.get("variance_type") or words.get("variance_type") or "fixed_small"
        made["variance_type"] = _ours_to_theirs(VARIANCES, variance, "sampling.variance_type")
    return made | _written_grid(sampling, made) | _written_clipping(sampling, made)


def _name(config: Config) -> str:
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise InputError("the scheduler's config has no _class_name: it is needed to know what the scheduler is")
    return name.removeprefix("Flax")


def _check(config: Config, name: str) -> None:
    """InputError for what would make the model say something else here."""
    refused = {
        "trained_betas": config.get("trained_betas") is not None,
        "use_flow_sigmas": bool(config.get("use_flow_sigmas")),
        "timestep_type": config.get("timestep_type", "discrete") != "discrete",
        "prediction_type": config.get("prediction_type", "epsilon") not in PREDICTIONS,
        "beta_schedule": config.get("beta_schedule", "linear") not in SCHEDULES,
        "variance_type": name.startswith("DDPM") and config.get("variance_type", "fixed_small") not in VARIANCES,
        "clip_sample_range": _clips(config, name) and config.get("clip_sample_range", 1.0) != 1,
        "sample_max_value": _thresholds(config, name) and config.get("sample_max_value", 1.0) != 1,
    }
    supported = {
        "prediction_type": ", ".join(PREDICTIONS),
        "beta_schedule": ", ".join(SCHEDULES),
        "variance_type": ", ".join(VARIANCES),
        "timestep_type": "discrete",
        "trained_betas": "a beta_schedule by its name",
        "use_flow_sigmas": "False",
        "clip_sample_range": "1, or clip_sample=False",
        "sample_max_value": "1, or thresholding=False",
    }
    for key, is_refused in refused.items():
        if is_refused:
            shown = "[...]" if key == "trained_betas" else repr(config[key])
            raise InputError(f"{name} with {key}={shown} is not supported: what is, is {supported[key]}")


def _diffusion(config: Config, name: str) -> dict[str, Any]:
    schedule = config.get("beta_schedule", "linear")
    section = {"beta_schedule": schedule, "num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if schedule != "squaredcos_cap_v2":
        for key, default in zip(("beta_start", "beta_end"), KINDS[name].betas, strict=True):
            section[key] = config.get(key, default)
    section["prediction_type"] = PREDICTIONS[config.get("prediction_type", "epsilon")]
    variance = config.get("variance_type") if name.startswith("DDPM") else None
    section["variance_type"] = VARIANCES[variance or "fixed_small"]
    section["rescale_betas_zero_snr"] = bool(config.get("rescale_betas_zero_snr", False))
    return section


def _clips(config: Config, name: str) -> bool:
    clips = KINDS[name].clips
    return clips is not None and bool(config.get("clip_sample", clips))


def _can_threshold(name: str) -> bool:
    return bool(KINDS[name].clips) or KINDS[name].leaves_out_last


def _thresholds(config: Config, name: str) -> bool:
    return _can_threshold(name) and bool(config.get("thresholding"))


def _clipping(config: Config, name: str) -> dict[str, Any]:
    # Thresholds of at most sample_max_value, which is 1 here, clip to [-1, 1].
    clips = _clips(config, name) or _thresholds(config, name)
    # Their Heun steps along the direction to what was clipped; the others read x_0 alone, or eps as it was.
    derives_eps = {"use_clipped_model_output": True} if clips and KINDS[name].sampler is _heun else {}
    return {"clip_sample": clips, **derives_eps}


def _grid(config: Config, name: str) -> dict[str, Any]:
    kind = KINDS[name]
    spacing = config.get("timestep_spacing", kind.spacing)
    offset = config.get("steps_offset", 0)
    for key in ("use_beta_sigmas", "use_dynamic_shifting"):
        if config.get(key) and kind.has_sigmas:
            logger.warning("%s with %s=True: marble has no such grid, and takes the spacing %s", name, key, spacing)
    for key, ours in SPACINGS.items():
        if config.get(key) and kind.has_sigmas:
            bounds = {k: config[k] for k in ("sigma_min", "sigma_max") if config.get(k) is not None}
            return {"timestep_spacing": ours, "steps_offset": offset, **bounds}
    if kind.leaves_out_last and spacing == "linspace":
        logger.info("%s with linspace visits steps less than 1 above those of trailing, which it becomes", name)
        spacing = "trailing"
    elif kind.leaves_out_last and spacing == "leading":
        logger.info("%s with leading makes one step more and leaves the cleanest out; marble's makes no such", name)
    return {"timestep_spacing": spacing, "steps_offset": offset}


def _say_last_step(config: Config, name: str) -> None:
    ends_clean = KINDS[name].ends_clean
    if ends_clean is None:
        ends_clean = config.get("final_sigmas_type", "zero") == "zero" or not KINDS[name].has_sigmas
    elif KINDS[name].sampler is not _ancestral:
        ends_clean = config.get("set_alpha_to_one", ends_clean)
    if ends_clean:
        return
    logger.info(
        "%s ends at the noise of step 0, alpha_0 x_0 + sigma_0 eps; marble's last step ends at the predicted x_0", name
    )


def _ancestral(config: Config) -> Named:
    # Euler's ancestral step is the same one, with the variance fixed_small, for x / alpha.
    variance = config.get("variance_type") if _name(config).startswith("DDPM") else None
    return "ancestral", {"variance_type": VARIANCES[variance or "fixed_small"]}


def _ddim(config: Config) -> Named:
    return "ddim", {}


def _no_such(config: Config) -> Named:
    logger.warning("marble has no sampler %s: ddim takes its place; choose another if you like", _name(config))
    return "ddim", {}


def _pndm(config: Config) -> Named:
    return "pndm", {"skip_prk_steps": bool(config.get("skip_prk_steps", False))}


def _dpm_solver(config: Config) -> Named:
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


def _unipc(config: Config) -> Named:
    if config.get("disable_corrector") or not config.get("predict_x0", True):
        logger.warning("marble's UniPC predicts x_0, with its corrector in every step: it is taken here")
    variant = config.get("solver_type", "bh2")
    return "unipc", {
        "order": config.get("solver_order", 2),
        "variant": variant if variant in ("bh1", "bh2") else "bh2",
        "lower_order_final": bool(config.get("lower_order_final", True)),
    }


def _euler(config: Config) -> Named:
    return "euler", {}


def _heun(config: Config) -> Named:
    return "heun", {}


SD_BETAS = (0.00085, 0.012)
DDPM, DDIM = (
    Kind(sampler, clips=True, spacing="leading", ends_clean=True, has_sigmas=False) for sampler in (_ancestral, _ddim)
)
KINDS: Mapping[str, Kind] = {
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "PNDMScheduler": Kind(_pndm, spacing="leading", ends_clean=False, has_sigmas=False),
    "DPMSolverMultistepScheduler": Kind(_dpm_solver, leaves_out_last=True),
    "UniPCMultistepScheduler": Kind(_unipc, leaves_out_last=True),
    "EulerDiscreteScheduler": Kind(_euler),
    "EulerAncestralDiscreteScheduler": Kind(_ancestral, has_sigmas=False),
    "HeunDiscreteScheduler": Kind(_heun, clips=False, betas=SD_BETAS),
    "LMSDiscreteScheduler": Kind(_no_such),
    "KDPM2DiscreteScheduler": Kind(_no_such, betas=SD_BETAS),
    "KDPM2AncestralDiscreteScheduler": Kind(_no_such, betas=SD_BETAS),
    "DPMSolverSinglestepScheduler": Kind(_no_such, leaves_out_last=True),
    "DPMSolverSDEScheduler": Kind(_no_such, betas=SD_BETAS),
    "DEISMultistepScheduler": Kind(_no_such, leaves_out_last=True),
}


def _writable(sampler: str, words: Config) -> str:
    """The sampler, or one that diffusers has for these betas."""
    can = sampler
    if words.get("beta_schedule") == "sigmoid":
        can = "ancestral"
    elif sampler not in WRITTEN or (words.get("rescale_betas_zero_snr") and sampler in ("pndm", "heun")):
        can = "ddim"
    if can != sampler:
        logger.warning("diffusers has no sampler %r for this diffusion: %s is written", sampler, can)
    return can


def _solver(name: str, sampling: Config, **values: Any) -> dict[str, Any]:
    return {"_class_name": name, "lower_order_final": sampling.get("lower_order_final", True), **values}


def _written_3m(sampling: Config) -> dict[str, Any]:
    if sampling.get("corrected", True):
        logger.warning("diffusers' DPM-Solver of order 3 is the published one, sampling.corrected=False here")
    return _solver("DPMSolverMultistepScheduler", sampling, solver_order=3, algorithm_type="dpmsolver++")


WRITTEN: Mapping[str, Callable[[Config], dict[str, Any]]] = {
    "ancestral": lambda _: {"_class_name": "DDPMScheduler"},
    "ddim": lambda _: {"_class_name": "DDIMScheduler", "set_alpha_to_one": True},
    "pndm": lambda sampling: {
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": sampling.get("skip_prk_steps", False),
        "set_alpha_to_one": True,
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


def _betas(words: Config) -> dict[str, Any]:
    """The keys of the schedule, all of them: defaults differ from class to class there."""
    name = words.get("beta_schedule", "linear")
    theirs = {"quadratic": "scaled_linear", "constant": "linear"}.get(name, name)
    if theirs not in SCHEDULES or words.get("max_beta", 0.999) != 0.999:
        raise InputError(
            f"diffusion.beta_schedule={name!r} with these arguments is none that diffusers has: "
            f"they are {', '.join(SCHEDULES)}"
        )
    defaults = {key: parameter.default for key, parameter in inspect.signature(SCHEDULES[theirs]).parameters.items()}
    made = {key: words.get(key, defaults[key]) for key in defaults if key != "max_beta"}
    if name == "constant":
        made["beta_start"] = made["beta_end"]
    return {"beta_schedule": theirs, **made}


def _ours_to_theirs(names: Mapping[str, str], ours: str, key: str) -> str:
    for theirs, name in names.items():
        if name == ours:
            return theirs
    raise InputError(f"{key}={ours!r} is none that diffusers has: they are {', '.join(dict.fromkeys(names.values()))}")


def _written_grid(sampling: Config, made: Config) -> dict[str, Any]:
    spacing, name = sampling.get("timestep_spacing", "linspace"), made["_class_name"]
    by_noise = {ours: key for key, ours in reversed(SPACINGS.items()) if key != "use_lu_lambdas"}
    offset = {"steps_offset": sampling.get("steps_offset", 0)}
    if spacing not in by_noise:
        if KINDS[name].leaves_out_last and spacing != "trailing":
            logger.info(
                "%s with %s makes one step more and leaves the cleanest out: other steps than here", name, spacing
            )
        return {"timestep_spacing": spacing, **offset}
    if not KINDS[name].has_sigmas:
        logger.warning("%s has no grid like %r: it is told trailing", name, spacing)
        return {"timestep_spacing": "trailing", **offset}
    bounds = {k: sampling[k] for k in ("sigma_min", "sigma_max") if sampling.get(k) is not None}
    return {"timestep_spacing": "linspace", by_noise[spacing]: True, **offset, **bounds}


def _written_clipping(sampling: Config, made: Config) -> dict[str, Any]:
    name, clips = made["_class_name"], bool(sampling.get("clip_sample", True))
    ratio = sampling.get("dynamic_thresholding_ratio")
    has_key = KINDS[name].clips is not None
    if ratio is not None or (clips and not has_key):
        if not _can_threshold(name):
            logger.warning("%s can't clip the prediction: it is written without", name)
            return {}
        largest = 1.0 if ratio is None else 1e6  # a threshold of at most 1 is clipping; ours has no bound
        made = {"thresholding": True, "sample_max_value": largest, "dynamic_thresholding_ratio": ratio or 0.995}
        return {**made, **({"clip_sample": False} if has_key else {})}
    return {"clip_sample": clips} if has_key else {}
