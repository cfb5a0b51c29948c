"""The one place where the names in a config become objects.

Each section of a config is the arguments of what it builds: a name picks the class or function from a dict here, and
that signature is the schema.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from marble import checkpoint, diffusion
from marble import workdir as workdirs
from marble.config import bind, completed, nearest, schema
from marble.data.sources import Source, open_source
from marble.diffusion import NoiseSchedule, weighting
from marble.diffusion.timesteps import LossHistory
from marble.errors import InputError
from marble.models import LearnedLinear, LearnedMonotone, UNet
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
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
from marble.training.diffusion_config import DiffusionConfig, check_words
from marble.training.learned_schedule import CURVE, schedule_of
from marble.training.loop import TrainingConfig
from marble.training.optimizer import adam, warmup_decay
from marble.training.state import TrainState

MODELS = {"unet": UNet}
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
SECTIONS = ("data", "model", "diffusion", "optimizer", "training", "sampling")
NAMES = {
    "model": {"name": MODELS, "dtype": DTYPES},
    "diffusion": {"beta_schedule": SCHEDULES, "weighting": WEIGHTINGS},
    "optimizer": {"name": OPTIMIZERS},
    "sampling": {"sampler": SAMPLERS},
}
"""The keys whose values are names, and what the names stand for; the first is the default."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section ``data`` of a config: what ``open_source`` takes, and flips."""

    name: str
    source: str | None = None
    """The folder of the original files, where the data set was not prepared before."""
    data_dir: str | None = None
    image_size: int | None = None
    flip: bool = False
    """Whether training images are flipped left to right half of the time."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"data.image_size={self.image_size} must be at least 1")

    def open(self) -> Source:
        """The data set."""
        return open_source(self.name, source=self.source, data_dir=self.data_dir, image_size=self.image_size)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All the parts of a config, built."""

    seed: int
    data: DataConfig
    model: nn.Module
    schedule: NoiseSchedule | nn.Module
    """One that is learned is a module, whose parameters are with the model's: ask ``schedule_of``."""
    diffusion: DiffusionConfig
    weighting: weighting.Weighting
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    training: TrainingConfig
    sampler: Sampler
    sampling: SamplingConfig
    image: ImageSpec

    @property
    def learns_schedule(self) -> bool:
        """Whether the schedule is trained with the model."""
        return isinstance(self.schedule, nn.Module)

    def schedule_of(self, params: Any) -> NoiseSchedule:
        """The schedule, which may be learned and so among the parameters."""
        return schedule_of(self.schedule, params) if self.learns_schedule else self.schedule

    def pipeline(self, params: Any, *, guide: DiffusionPipeline | None = None) -> DiffusionPipeline:
        """The sampler of this experiment's model with these parameters."""
        return DiffusionPipeline(
            model=self.model,
            params=params,
            schedule=self.schedule_of if self.learns_schedule else self.schedule,
            prediction_type=self.diffusion.prediction_type,
            image=self.image,
            sampler=self.sampler,
            config=self.sampling,
            has_null_class=self.training.label_dropout > 0,
            guide=guide,
            self_conditioning=self.training.self_conditioning,
        )


def complete(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with every key that it does not state at its default; InputError for what it states wrongly."""
    bind("config", config, sections)
    whole = ml_collections.ConfigDict({"seed": config["seed"]})
    for section in SECTIONS:
        chosen, rest = pick(section, config[section])
        constructors = constructors_of(section, chosen)
        bind(section, rest, *constructors)
        whole[section] = completed(rest, *constructors)
        for key, table in NAMES.get(section, {}).items():
            whole[section][key] = config[section].get(key, next(iter(table)))
    return whole


def build(config: Mapping[str, Any], image: ImageSpec) -> Experiment:
    """The parts of a config for images of this kind; InputError where a name, key, type or value is wrong."""
    bind("config", config, sections)
    if not 0 <= config["seed"] < 2**32:
        raise InputError(f"config key seed={config['seed']} must be between 0 and {2**32 - 1}")
    chosen, arguments = {}, {}
    for section in SECTIONS:
        chosen[section], rest = pick(section, config[section])
        arguments[section] = bind(section, rest, *constructors_of(section, chosen[section]))
    schedule = chosen["diffusion"]["beta_schedule"](**arguments["diffusion"][0])
    diffusion_config = DiffusionConfig(**arguments["diffusion"][1])
    schedule = diffusion_config.stretched(schedule, config["diffusion"].get("beta_schedule"))
    training = TrainingConfig(**arguments["training"][0])
    learning_rate = warmup_decay(**arguments["optimizer"][0])
    model = chosen["model"]
    experiment = Experiment(
        seed=config["seed"],
        data=DataConfig(**arguments["data"][0]),
        model=model["name"](
            **arguments["model"][0],
            dtype=model["dtype"],
            out_channels=image.shape[-1] * (2 if diffusion_config.learns_variance else 1),
            reads_x_0=training.self_conditioning,
        ),
        schedule=schedule,
        diffusion=diffusion_config,
        weighting=functools.partial(chosen["diffusion"]["weighting"], **arguments["diffusion"][2]),
        optimizer=chosen["optimizer"]["name"](learning_rate, **arguments["optimizer"][1]),
        learning_rate=learning_rate,
        training=training,
        sampler=with_schedule(chosen["sampling"]["sampler"], schedule, **arguments["sampling"][0]),
        sampling=SamplingConfig(**arguments["sampling"][1]),
        image=image,
    )
    check_words(
        diffusion_config,
        schedule,
        chosen["diffusion"]["weighting"],
        timestep_sampling=training.timestep_sampling,
        self_conditioning=training.self_conditioning,
        sampler=experiment.sampler,
    )
    return experiment


def data_config(config: Mapping[str, Any]) -> DataConfig:
    """The section ``data``, which is opened before the rest can be built."""
    return DataConfig(**bind("data", config["data"], DataConfig)[0])


def sections(*, seed: int, data: Any, model: Any, diffusion: Any, optimizer: Any, training: Any, sampling: Any) -> None:
    """The schema of a whole config."""


def constructors_of(section: str, chosen: Mapping[str, Any]) -> list[Callable[..., Any]]:
    """The functions and classes whose arguments a section holds, given what its names stand for."""
    match section:
        case "data":
            return [DataConfig]
        case "model":
            return [chosen["name"]]
        case "diffusion":
            return [chosen["beta_schedule"], DiffusionConfig, chosen["weighting"]]
        case "optimizer":
            return [warmup_decay, chosen["name"]]
        case "training":
            return [TrainingConfig]
        case "sampling":
            return [chosen["sampler"], SamplingConfig]


def pick(section: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the names in a section stand for, and the rest of it."""
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise InputError(f"config key {section}={values!r} must be a section of keys")
    rest = dict(values)
    tables = NAMES.get(section, {})
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
) -> DiffusionPipeline:
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
) -> tuple[int, DiffusionPipeline]:
    """The step of the checkpoint that ``load`` takes, and its pipeline."""
    config, image = workdirs.recall(workdir)
    if sampler is not None:
        config["sampling"] = with_sampler(config.get("sampling", {}), sampler)
    experiment = build(config, image)
    field = "params" if raw_params else "ema_params"
    target = {field: jax.eval_shape(lambda: init_params(experiment))}
    if step is None:
        step, state, _ = checkpoint.restore_newest(workdir, target)
    else:
        state = checkpoint.restore(workdir, step, target)
    return step, experiment.pipeline(state[field], guide=None if guide is None else load(guide))


def with_sampler(sampling: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The section ``sampling`` with another sampler, without those settings that only the one before had."""
    own = schema(look_up("sampling.sampler", SAMPLERS, name))
    before = schema(SAMPLERS[sampling.get("sampler", next(iter(SAMPLERS)))])
    return {**{k: v for k, v in sampling.items() if k in own or k not in before}, "sampler": name}


def init_params(experiment: Experiment) -> Any:
    """The initial parameters of the model, and of a schedule that is learned; they depend on the seed alone."""
    x = jnp.zeros((1, *experiment.image.shape))
    context = None if experiment.model.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
    key = jax.random.key(experiment.seed, impl="threefry2x32")
    params = experiment.model.init(key, x, jnp.zeros(1, jnp.int32), context)["params"]
    if not experiment.learns_schedule:
        return params
    return {**params, CURVE: experiment.schedule.init(jax.random.fold_in(key, 1), jnp.zeros(1))["params"]}


def init_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    history = None
    if experiment.training.timestep_sampling == "importance":
        history = LossHistory.empty(experiment.schedule.num_train_timesteps)
    return TrainState.create(init_params(experiment), experiment.optimizer, history)
