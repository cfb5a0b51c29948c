"""diffusers' ``scheduler_config.json``: the sections ``diffusion`` and ``sampling`` of a config, both ways.

What changes the model's meaning - the betas, what is predicted, the variance that is learned - is exact, or refused.
How to sample is the user's choice: a sampler that is not here becomes ddim, and what differs is said in the log. So
is a last step that ends at the noise of step 0, with alpha_0 x_0 + sigma_0 eps, where ours ends at the image.

``scheduler_classes`` has what each class is. Configs are handed on from class to class there, with keys that the next
one does not read: nor are they read here.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from marble.convert.scheduler_classes import (
    KINDS,
    PREDICTIONS,
    SCHEDULES,
    SPACINGS,
    TIMESTEP_SPACINGS,
    VARIANCES,
    WRITTEN,
    Config,
    ancestral,
    heun,
    name_of,
)
from marble.errors import InputError

logger = logging.getLogger(__name__)


def sections_of(config: Config) -> dict[str, dict[str, Any]]:
    """``{"diffusion": ..., "sampling": ...}`` of a scheduler_config.json; InputError for what is not supported."""
    name = name_of(config)
    if name not in KINDS:
        raise InputError(
            f"the scheduler {name} is not supported: those of other models than DDPM's say x_t otherwise. "
            f"What is supported is {', '.join(KINDS)}"
        )
    _check(config, name)
    sampler, arguments = KINDS[name].sampler(config)
    return {
        "diffusion": _diffusion(config, name),
        "sampling": {"sampler": sampler, **arguments, **_clipping(config, name), **_ended(config, name)},
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


def _check(config: Config, name: str) -> None:
    """InputError for what would make the model say something else here."""
    refused = {
        "trained_betas": config.get("trained_betas") is not None,
        "use_flow_sigmas": bool(config.get("use_flow_sigmas")),
        "timestep_type": config.get("timestep_type", "discrete") != "discrete",
        "timestep_spacing": config.get("timestep_spacing", KINDS[name].spacing) not in TIMESTEP_SPACINGS,
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
        "timestep_spacing": ", ".join(TIMESTEP_SPACINGS),
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


def _thresholds(config: Config, name: str) -> bool:
    return KINDS[name].can_threshold and bool(config.get("thresholding"))


def _clipping(config: Config, name: str) -> dict[str, Any]:
    # Thresholds of at most sample_max_value, which is 1 here, clip to [-1, 1].
    clips = _clips(config, name) or _thresholds(config, name)
    # Their Heun steps along the direction to what was clipped; the others read x_0 alone, or eps as it was.
    derives_eps = {"use_clipped_model_output": True} if clips and KINDS[name].sampler is heun else {}
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


def _ended(config: Config, name: str) -> dict[str, Any]:
    """The grid, and where its last step ends."""
    grid, kind = _grid(config, name), KINDS[name]
    if kind.ends_clean is not None and kind.sampler is not ancestral:
        # A grid that comes to step 0 by itself can't end there once more.
        ends_clean = config.get("set_alpha_to_one", kind.ends_clean)
        comes_to_0 = grid["timestep_spacing"] == "linspace" or grid == {
            "timestep_spacing": "leading",
            "steps_offset": 0,
        }
        if not ends_clean and not comes_to_0:
            return {**grid, "set_alpha_to_one": False}
    else:
        ends_clean = config.get("final_sigmas_type", "zero") == "zero" or not kind.has_sigmas
    if not ends_clean:
        said = "%s ends at the noise of step 0, alpha_0 x_0 + sigma_0 eps; marble's last step ends at the predicted x_0"
        logger.info(said, name)
    return grid


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
        if not KINDS[name].can_threshold:
            logger.warning("%s can't clip the prediction: it is written without", name)
            return {}
        largest = 1.0 if ratio is None else 1e6  # a threshold of at most 1 is clipping; ours has no bound
        made = {"thresholding": True, "sample_max_value": largest, "dynamic_thresholding_ratio": ratio or 0.995}
        return {**made, **({"clip_sample": False} if has_key else {})}
    return {"clip_sample": clips} if has_key else {}
