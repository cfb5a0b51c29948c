"""The one place where the names in a config become objects.

Each section of a config is the arguments of what it builds: a name picks the class or function from a dict here, and
that signature is the schema.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from marble import checkpoint, diffusion
from marble import workdir as workdirs
from marble.config import bind, completed, nearest
from marble.data.sources import Source, open_source
from marble.diffusion import Schedule, weighting
from marble.errors import InputError
from marble.models import UNet
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.sampling import Ancestral, Sampler
from marble.training.loop import TrainingConfig
from marble.training.optimizer import adam, warmup_decay

MODELS = {"unet": UNet}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SCHEDULES = {"linear": diffusion.linear}
WEIGHTINGS = {"simple": weighting.simple, "elbo": weighting.elbo}
OPTIMIZERS = {"adam": adam}
SAMPLERS = {"ancestral": Ancestral}
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
    schedule: Schedule
    weights: Any
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    training: TrainingConfig
    sampler: Sampler
    sampling: SamplingConfig
    image: ImageSpec

    def pipeline(self, params: Any) -> DiffusionPipeline:
        """The sampler of this experiment's model with these parameters."""
        return DiffusionPipeline(
            model=self.model,
            params=params,
            schedule=self.schedule,
            image=self.image,
            sampler=self.sampler,
            config=self.sampling,
            has_null_class=self.training.label_dropout > 0,
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
    learning_rate = warmup_decay(**arguments["optimizer"][0])
    model = chosen["model"]
    return Experiment(
        seed=config["seed"],
        data=DataConfig(**arguments["data"][0]),
        model=model["name"](**arguments["model"][0], dtype=model["dtype"], out_channels=image.shape[-1]),
        schedule=schedule,
        weights=chosen["diffusion"]["weighting"](schedule, **arguments["diffusion"][1]),
        optimizer=chosen["optimizer"]["name"](learning_rate, **arguments["optimizer"][1]),
        learning_rate=learning_rate,
        training=TrainingConfig(**arguments["training"][0]),
        sampler=chosen["sampling"]["sampler"](**arguments["sampling"][0]),
        sampling=SamplingConfig(**arguments["sampling"][1]),
        image=image,
    )


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
            return [chosen["beta_schedule"], chosen["weighting"]]
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
    workdir: str, *, step: int | None = None, raw_params: bool = False, sampler: str | None = None
) -> DiffusionPipeline:
    """The pipeline of a trained workdir, from its newest whole checkpoint, or that of ``step``.

    It samples with the averaged parameters, or with the last ones if raw_params; sampler replaces the config's.
    InputError when workdir has no run or no such checkpoint, RunError when the checkpoints are damaged.
    """
    return load_step(workdir, step=step, raw_params=raw_params, sampler=sampler)[1]


def load_step(
    workdir: str, *, step: int | None = None, raw_params: bool = False, sampler: str | None = None
) -> tuple[int, DiffusionPipeline]:
    """The step of the checkpoint that ``load`` takes, and its pipeline."""
    config, image = workdirs.recall(workdir)
    if sampler is not None:
        config["sampling"] = {**config.get("sampling", {}), "sampler": sampler}
    experiment = build(config, image)
    field = "params" if raw_params else "ema_params"
    target = {field: jax.eval_shape(lambda: init_params(experiment))}
    if step is None:
        step, state, _ = checkpoint.restore_newest(workdir, target)
    else:
        state = checkpoint.restore(workdir, step, target)
    return step, experiment.pipeline(state[field])


def init_params(experiment: Experiment) -> Any:
    """The model's initial parameters, which depend on the seed alone."""
    x = jnp.zeros((1, *experiment.image.shape))
    context = None if experiment.model.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
    key = jax.random.key(experiment.seed, impl="threefry2x32")
    return experiment.model.init(key, x, jnp.zeros(1, jnp.int32), context)["params"]
