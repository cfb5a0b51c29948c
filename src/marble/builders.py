"""The one place where the names in a config become objects.

Each section of a config is the arguments of what it builds: a name picks the class or function from a dict here, and
that signature is the schema.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from marble import checkpoint, diffusion, vae
from marble import workdir as workdirs
from marble.config import bind, completed, nearest, schema
from marble.data.sources import Source, open_source
from marble.diffusion import Schedule, weighting
from marble.errors import InputError
from marble.models import VAE, UNet
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig, VAEPipeline, VAESamplingConfig
from marble.sampling import Ancestral, Sampler
from marble.training.loop import TrainingConfig
from marble.training.objectives import LossFn, diffusion_loss_fn
from marble.training.optimizer import adam, warmup_decay
from marble.training.state import DiffusionWindow, TrainState, VAEWindow
from marble.training.vae import vae_loss_fn

MODELS = {"unet": UNet, "vae": VAE}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SCHEDULES = {"linear": diffusion.linear}
WEIGHTINGS = {"simple": weighting.simple, "elbo": weighting.elbo}
OPTIMIZERS = {"adam": adam}
SAMPLERS = {"ancestral": Ancestral}
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
    *, seed: int, data: Any, model: Any, diffusion: Any, optimizer: Any, training: Any, sampling: Any
) -> None:
    """The schema of a diffusion model's config."""


def vae_sections(*, seed: int, data: Any, model: Any, vae: Any, optimizer: Any, training: Any, sampling: Any) -> None:
    """The schema of a variational autoencoder's config."""


OBJECTIVES = {UNet: Objective(diffusion_sections, NAMES), VAE: Objective(vae_sections, {**NAMES, "sampling": {}})}
"""The objective follows the model."""


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
class Parts:
    """The parts that the config of every objective has, built."""

    seed: int
    data: DataConfig
    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    training: TrainingConfig
    image: ImageSpec


@dataclasses.dataclass(frozen=True)
class DiffusionExperiment(Parts):
    """All the parts of a diffusion model's config, built."""

    schedule: Schedule
    weights: Any
    sampler: Sampler
    sampling: SamplingConfig

    window = DiffusionWindow

    def model_inputs(self) -> tuple[Any, ...]:
        """Arguments of the model for one image, to make its parameters with."""
        context = None if self.model.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
        return jnp.zeros((1, *self.image.shape)), jnp.zeros(1, jnp.int32), context

    def loss_fn(self, *, train: bool) -> LossFn:
        """The loss; its dropout, of labels too, is on if train."""
        return diffusion_loss_fn(
            self.model,
            self.schedule,
            weights=self.weights,
            label_dropout=self.training.label_dropout if train else 0.0,
            train=train,
        )

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


@dataclasses.dataclass(frozen=True)
class VAEExperiment(Parts):
    """All the parts of a variational autoencoder's config, built."""

    likelihood: vae.Likelihood
    sampling: VAESamplingConfig

    window = VAEWindow

    def model_inputs(self) -> tuple[Any, ...]:
        """Arguments of the model for one image, to make its parameters with."""
        return (jnp.zeros((1, *self.image.shape)),)

    def loss_fn(self, *, train: bool) -> LossFn:
        """The loss; its dropout is on if train."""
        return vae_loss_fn(self.model, self.likelihood, self.image.levels, train=train)

    def pipeline(self, params: Any) -> VAEPipeline:
        """This experiment's model with these parameters."""
        return VAEPipeline(
            model=self.model, params=params, likelihood=self.likelihood, image=self.image, config=self.sampling
        )


Experiment = DiffusionExperiment | VAEExperiment


def complete(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with every key that it does not state at its default; InputError for what it states wrongly."""
    objective = checked_sections(config)
    whole = ml_collections.ConfigDict({"seed": config["seed"]})
    for section in objective.sections:
        chosen, rest = pick(section, config[section], objective.names)
        constructors = constructors_of(section, chosen)
        bind(section, rest, *constructors)
        whole[section] = completed(rest, *constructors)
        for key, table in objective.names.get(section, {}).items():
            whole[section][key] = config[section].get(key, next(iter(table)))
    return whole


def build(config: Mapping[str, Any], image: ImageSpec) -> Experiment:
    """The parts of a config for images of this kind; InputError where a name, key, type or value is wrong."""
    objective = checked_sections(config)
    if not 0 <= config["seed"] < 2**32:
        raise InputError(f"config key seed={config['seed']} must be between 0 and {2**32 - 1}")
    chosen, arguments = {}, {}
    for section in objective.sections:
        chosen[section], rest = pick(section, config[section], objective.names)
        arguments[section] = bind(section, rest, *constructors_of(section, chosen[section]))
    learning_rate = warmup_decay(**arguments["optimizer"][0])
    model = {**arguments["model"][0], "dtype": chosen["model"]["dtype"]}
    parts = dict(
        seed=config["seed"],
        data=DataConfig(**arguments["data"][0]),
        optimizer=chosen["optimizer"]["name"](learning_rate, **arguments["optimizer"][1]),
        learning_rate=learning_rate,
        training=TrainingConfig(**arguments["training"][0]),
        image=image,
    )
    if chosen["model"]["name"] is VAE:
        return VAEExperiment(
            **parts,
            model=VAE(**model, image_shape=image.shape),
            likelihood=chosen["vae"]["likelihood"],
            sampling=VAESamplingConfig(**arguments["sampling"][0]),
        )
    schedule = chosen["diffusion"]["beta_schedule"](**arguments["diffusion"][0])
    return DiffusionExperiment(
        **parts,
        model=chosen["model"]["name"](**model, out_channels=image.shape[-1]),
        schedule=schedule,
        weights=chosen["diffusion"]["weighting"](schedule, **arguments["diffusion"][1]),
        sampler=chosen["sampling"]["sampler"](**arguments["sampling"][0]),
        sampling=SamplingConfig(**arguments["sampling"][1]),
    )


def data_config(config: Mapping[str, Any]) -> DataConfig:
    """The section ``data``, which is opened before the rest can be built."""
    return DataConfig(**bind("data", config["data"], DataConfig)[0])


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


def constructors_of(section: str, chosen: Mapping[str, Any]) -> list[Callable[..., Any]]:
    """The functions and classes whose arguments a section holds, given what its names stand for."""
    match section:
        case "data":
            return [DataConfig]
        case "model":
            return [chosen["name"]]
        case "diffusion":
            return [chosen["beta_schedule"], chosen["weighting"]]
        case "vae":
            return []
        case "optimizer":
            return [warmup_decay, chosen["name"]]
        case "training":
            return [TrainingConfig]
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
    workdir: str, *, step: int | None = None, raw_params: bool = False, sampler: str | None = None
) -> DiffusionPipeline | VAEPipeline:
    """The pipeline of a trained workdir, from its newest whole checkpoint, or that of ``step``.

    It samples with the averaged parameters, or with the last ones if raw_params; sampler replaces the config's.
    InputError when workdir has no run or no such checkpoint, RunError when the checkpoints are damaged.
    """
    config, image = workdirs.recall(workdir)
    if sampler is not None and checked_sections(config).names["sampling"] == {}:
        raise InputError(f"sampler {sampler!r} given, but the model of {workdir} draws in one step: leave it out")
    if sampler is not None:
        config["sampling"] = {**config.get("sampling", {}), "sampler": sampler}
    experiment = build(config, image)
    field = "params" if raw_params else "ema_params"
    target = {field: jax.eval_shape(lambda: init_params(experiment))}
    if step is None:
        _, state, _ = checkpoint.restore_newest(workdir, target)
    else:
        state = checkpoint.restore(workdir, step, target)
    return experiment.pipeline(state[field])


def init_params(experiment: Experiment) -> Any:
    """The model's initial parameters, which depend on the seed alone."""
    key = jax.random.key(experiment.seed, impl="threefry2x32")
    return experiment.model.init(key, *experiment.model_inputs())["params"]


def init_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    return TrainState.create(init_params(experiment), experiment.optimizer, experiment.window)
