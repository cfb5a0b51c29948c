"""The one place where the names in a config become objects.

Each section of a config is the arguments of what it builds: a name picks the class or function from a dict here, and
that signature is the schema.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from marble import checkpoint, diffusion, vae
from marble import workdir as workdirs
from marble.config import bind, completed, nearest, schema
from marble.diffusion import NoiseSchedule, weighting
from marble.errors import InputError
from marble.experiments import DataConfig, DiffusionExperiment, Experiment, VAEExperiment
from marble.models import VAE, LearnedLinear, LearnedMonotone, UNet
from marble.parallel import ParallelConfig, hosts, in_32_bits
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig, VAEPipeline, VAESamplingConfig
from marble.sampling import (
    DDIM,
    ODE,
    PNDM,
    Ancestral,
    Euler,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    dpm_solver_2m,
    dpm_solver_3m,
    dpm_solver_sde,
)
from marble.storage import run_path
from marble.training.diffusion_config import FIXED, DiffusionConfig, check_words, warn_of_image_left
from marble.training.loop import TrainingConfig
from marble.training.optimizer import adam, warmup_decay

logger = logging.getLogger(__name__)

MODELS = {"unet": UNet, "vae": VAE}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SCHEDULES = {
    "linear": diffusion.linear,
    "scaled_linear": diffusion.scaled_linear,
    "quadratic": diffusion.scaled_linear,
    "constant": diffusion.constant,
    "jsd": diffusion.jsd,
    "warmup10": diffusion.warmup10,
    "warmup50": diffusion.warmup50,
    "squaredcos_cap_v2": diffusion.squaredcos_cap_v2,
    "sigmoid": diffusion.sigmoid,
    "cosine": diffusion.cosine,
    "edm": diffusion.edm,
    "rectified_flow": diffusion.rectified_flow,
    "learned_linear": LearnedLinear,
    "learned_monotone": LearnedMonotone,
}
WEIGHTINGS = {
    "simple": weighting.simple,
    "elbo": weighting.elbo,
    "snr": weighting.snr,
    "min_snr": weighting.min_snr,
    "p2": weighting.p2,
    "sigmoid": weighting.sigmoid,
    "edm": weighting.edm,
}
OPTIMIZERS = {"adam": adam}
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
}
LIKELIHOODS = {"discretised_logistic": vae.DISCRETISED_LOGISTIC, "gaussian": vae.GAUSSIAN}
NAMES = {
    "model": {"name": MODELS, "dtype": DTYPES},
    "diffusion": {"beta_schedule": SCHEDULES, "weighting": WEIGHTINGS},
    "vae": {"likelihood": LIKELIHOODS},
    "optimizer": {"name": OPTIMIZERS},
    "sampling": {"sampler": SAMPLERS},
}
"""The keys whose values are names, and what the names stand for; the first is the default."""


class Objective(NamedTuple):
    """What a config has that trains a kind of model."""

    schema: Callable[..., None]
    """Its arguments are the sections of the config, and the seed."""
    names: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """As NAMES."""

    @property
    def sections(self) -> list[str]:
        """The sections, in the order in which they are built."""
        return [name for name in schema(self.schema) if name != "seed"]


def diffusion_sections(
    *,
    seed: int,
    data: Any,
    model: Any,
    diffusion: Any,
    optimizer: Any,
    training: Any,
    sampling: Any,
    parallel: Any = None,
) -> None:
    """The schema of a diffusion model's config."""


def vae_sections(
    *, seed: int, data: Any, model: Any, vae: Any, optimizer: Any, training: Any, sampling: Any, parallel: Any = None
) -> None:
    """The schema of a variational autoencoder's config."""


OBJECTIVES = {UNet: Objective(diffusion_sections, NAMES), VAE: Objective(vae_sections, {**NAMES, "sampling": {}})}
"""The objective follows the model."""


def complete(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with every key that it does not state at its default; InputError for what it states wrongly."""
    config, objective = variance_followed(config), checked_sections(config)
    whole = ml_collections.ConfigDict({"seed": config["seed"]})
    for section in objective.sections:
        chosen, rest = pick(section, config.get(section, {}), objective.names)
        constructors = constructors_of(section, chosen)
        bind(section, rest, *constructors)
        whole[section] = completed(rest, *constructors)
        for key, table in objective.names.get(section, {}).items():
            whole[section][key] = config[section].get(key, next(iter(table)))
    return whole


@in_32_bits
def build(config: Mapping[str, Any], image: ImageSpec) -> Experiment:
    """The parts of a config for images of this kind; InputError where a name, key, type or value is wrong."""
    config, objective = variance_followed(config), checked_sections(config)
    if not 0 <= config["seed"] < 2**32:
        raise InputError(f"config key seed={config['seed']} must be between 0 and {2**32 - 1}")
    chosen, arguments = {}, {}
    for section in objective.sections:
        chosen[section], rest = pick(section, config.get(section, {}), objective.names)
        arguments[section] = bind(section, rest, *constructors_of(section, chosen[section]))
    learning_rate = warmup_decay(**arguments["optimizer"][0])
    parts = dict(
        seed=config["seed"],
        data=DataConfig(**arguments["data"][0]),
        optimizer=chosen["optimizer"]["name"](learning_rate, **arguments["optimizer"][1]),
        learning_rate=learning_rate,
        training=TrainingConfig(**arguments["training"][0]),
        image=image,
        parallel=ParallelConfig(**arguments["parallel"][0]),
    )
    build_objective = _build_vae if chosen["model"]["name"] is VAE else _build_diffusion
    return build_objective(parts, chosen, arguments)


def _build_diffusion(parts: dict[str, Any], chosen: Mapping[str, Any], arguments: Mapping[str, Any]) -> Experiment:
    of_schedule, of_words, of_weighting = arguments["diffusion"]
    words, training, make_schedule = (
        DiffusionConfig(**of_words),
        parts["training"],
        chosen["diffusion"]["beta_schedule"],
    )
    name = next(name for name, make in SCHEDULES.items() if make is make_schedule)
    schedule = words.stretched(make_schedule(**of_schedule), name)
    model = chosen["model"]["name"](
        **arguments["model"][0],
        dtype=chosen["model"]["dtype"],
        out_channels=parts["image"].shape[-1] * (2 if words.learns_variance else 1),
        reads_x_0=training.self_conditioning,
    )
    experiment = DiffusionExperiment(
        **parts,
        model=model,
        schedule=schedule,
        diffusion=words,
        weighting=functools.partial(chosen["diffusion"]["weighting"], **of_weighting),
        sampler=with_schedule(chosen["sampling"]["sampler"], schedule, **arguments["sampling"][0]),
        sampling=SamplingConfig(**arguments["sampling"][1]),
    )
    if words.learns_variance and getattr(experiment.sampler, "variance_type", words.variance_type) in FIXED:
        logger.warning(
            "sampling.variance_type=%r leaves the variance that is learned unused", experiment.sampler.variance_type
        )
    experiment.sampling.guidance().check(has_origin=training.label_dropout > 0)
    check_words(
        words,
        schedule,
        chosen["diffusion"]["weighting"],
        timestep_sampling=training.timestep_sampling,
        self_conditioning=training.self_conditioning,
        sampler=experiment.sampler,
    )
    if not experiment.learns_schedule:
        warn_of_image_left(schedule, training.num_steps)
    return experiment


def _build_vae(parts: dict[str, Any], chosen: Mapping[str, Any], arguments: Mapping[str, Any]) -> Experiment:
    return VAEExperiment(
        **parts,
        model=VAE(**arguments["model"][0], dtype=chosen["model"]["dtype"], image_shape=parts["image"].shape),
        likelihood=chosen["vae"]["likelihood"],
        sampling=VAESamplingConfig(**arguments["sampling"][0]),
    )


def data_config(config: Mapping[str, Any]) -> DataConfig:
    """The section ``data``, which is opened before the rest can be built."""
    return DataConfig(**bind("data", config["data"], DataConfig)[0])


def parallel_config(config: Mapping[str, Any]) -> ParallelConfig:
    """The section ``parallel``, which says how the processes of a run find each other."""
    return ParallelConfig(**bind("parallel", config.get("parallel", {}), ParallelConfig)[0])


def checked_sections(config: Mapping[str, Any]) -> Objective:
    """The objective of a config's model; InputError unless the config has just the sections that it reads."""
    model = pick("model", config.get("model", {}))[0]["name"]
    objective = OBJECTIVES[model]
    unread = [section for section in NAMES if section in config and section not in objective.sections]
    if unread:
        raise InputError(
            f"the config section {unread[0]} is not read with model.name={config['model'].get('name', 'unet')!r}: "
            f"remove it; what is read is {', '.join(objective.sections)}"
        )
    bind("config", config, objective.schema)
    return objective


def variance_followed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config whose sampler, where nothing is said of its variance, uses the one that is learned."""
    learned = config.get("diffusion", {}).get("variance_type")
    sampling = config.get("sampling", {})
    if learned in (None, *FIXED) or "variance_type" in sampling:
        return config
    if "variance_type" not in schema(pick("sampling", sampling)[0]["sampler"]):
        return config
    return {**config, "sampling": {**sampling, "variance_type": learned}}


def constructors_of(section: str, chosen: Mapping[str, Any]) -> list[Callable[..., Any]]:
    """The functions and classes whose arguments a section holds, given what its names stand for."""
    match section:
        case "data":
            return [DataConfig]
        case "model":
            return [chosen["name"]]
        case "diffusion":
            return [chosen["beta_schedule"], DiffusionConfig, chosen["weighting"]]
        case "vae":
            return []
        case "optimizer":
            return [warmup_decay, chosen["name"]]
        case "training":
            return [TrainingConfig]
        case "parallel":
            return [ParallelConfig]
        case "sampling":
            return [chosen["sampler"], SamplingConfig] if "sampler" in chosen else [VAESamplingConfig]


def pick(
    section: str, values: Mapping[str, Any], names: Mapping[str, Any] = NAMES
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the names in a section stand for, and the rest of it."""
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise InputError(f"config key {section}={values!r} must be a section of keys")
    rest = dict(values)
    tables = names.get(section, {})
    chosen = {k: look_up(f"{section}.{k}", table, rest.pop(k, next(iter(table)))) for k, table in tables.items()}
    return chosen, rest


def look_up(what: str, table: Mapping[str, Any], name: Any) -> Any:
    """table[name], or an InputError with the nearest name."""
    if not isinstance(name, str) or name not in table:
        raise InputError(f"config key {what}={name!r} is unknown{nearest(name, table)}")
    return table[name]


def load(
    workdir: str,
    *,
    step: int | None = None,
    raw_params: bool = False,
    sampler: str | None = None,
    guide: str | None = None,
) -> DiffusionPipeline | VAEPipeline:
    """The pipeline of a trained workdir, from its newest whole checkpoint, or that of ``step``.

    It samples with the averaged parameters, or with the last ones if raw_params; sampler replaces the config's. guide
    is the workdir of a weaker model, for autoguidance by ``guidance_scale``.
    InputError when workdir has no run or no such checkpoint, RunError when the checkpoints are damaged.
    """
    return load_step(workdir, step=step, raw_params=raw_params, sampler=sampler, guide=guide)[1]


def load_step(
    workdir: str,
    *,
    step: int | None = None,
    raw_params: bool = False,
    sampler: str | None = None,
    guide: str | None = None,
) -> tuple[int, DiffusionPipeline | VAEPipeline]:
    """The step of the checkpoint that ``load`` takes, and its pipeline."""
    workdir = run_path("the workdir", workdir)
    config, image = workdirs.recall(workdir)
    if sampler is not None and checked_sections(config).names["sampling"] == {}:
        raise InputError(f"sampler {sampler!r} given, but the model of {workdir} draws in one step: leave it out")
    if sampler is not None:
        config["sampling"] = renamed("sampling", config.get("sampling", {}), "sampler", sampler)
    experiment = build(config, image)
    field = "params" if raw_params else "ema_params"
    target = {field: jax.eval_shape(experiment.init_params)}
    state = None

    def newest() -> int:
        nonlocal state
        found, state, _ = checkpoint.restore_newest(workdir, target)
        return found

    if step is None:  # the first process says, for which is the newest may change while they read
        step = hosts.from_first(newest)
    if state is None:
        state = checkpoint.restore(workdir, step, target)
    return step, experiment.pipeline(state[field], guide=None if guide is None else load(guide))


def renamed(section: str, values: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    """A section with another name at this key of it, without what only the name before had; InputError if unknown."""
    changed = {**values, key: name}
    before, after = (
        {k for constructor in constructors_of(section, pick(section, v)[0]) for k in schema(constructor)}
        for v in (values, changed)
    )
    return {k: v for k, v in changed.items() if k in after or k not in before}
