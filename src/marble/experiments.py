"""Experiments: all the parts of a config, built; one kind for each objective."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from marble import vae
from marble.data.sources import Source, open_source
from marble.diffusion import NoiseSchedule, weighting
from marble.diffusion.timesteps import LossHistory
from marble.errors import InputError
from marble.parallel import DeviceMapping, ParallelConfig
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig, VAEPipeline, VAESamplingConfig
from marble.sampling import Sampler
from marble.training.diffusion_config import DiffusionConfig
from marble.training.learned_schedule import CURVE, schedule_of, variational_loss_fn
from marble.training.loop import TrainingConfig
from marble.training.objectives import LossFn, diffusion_loss_fn
from marble.training.state import DiffusionWindow, TrainState, VAEWindow
from marble.training.vae import vae_loss_fn


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
    """The parts that the config of every objective has."""

    seed: int
    data: DataConfig
    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    training: TrainingConfig
    image: ImageSpec
    parallel: ParallelConfig


@dataclasses.dataclass(frozen=True)
class DiffusionExperiment(Parts):
    """A diffusion model's."""

    schedule: NoiseSchedule | nn.Module
    """One that is learned is a module, whose parameters are with the model's: ask ``schedule_of``."""
    diffusion: DiffusionConfig
    weighting: weighting.Weighting
    sampler: Sampler
    sampling: SamplingConfig

    window = DiffusionWindow

    @property
    def learns_schedule(self) -> bool:
        """Whether the schedule is trained with the model."""
        return isinstance(self.schedule, nn.Module)

    def schedule_of(self, params: Any) -> NoiseSchedule:
        """The schedule, which may be learned and so among the parameters."""
        return schedule_of(self.schedule, params) if self.learns_schedule else self.schedule

    def model_inputs(self) -> tuple[Any, ...]:
        """Arguments of the model for one image."""
        context = None if self.model.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
        return jnp.zeros((1, *self.image.shape), jnp.float32), jnp.zeros(1, jnp.int32), context

    def init_params(self) -> Any:
        """The initial parameters of the model, and of a schedule that is learned; they depend on the seed alone."""
        key = _init_key(self)
        params = self.model.init(key, *self.model_inputs())["params"]
        if not self.learns_schedule:
            return params
        return {**params, CURVE: self.schedule.init(jax.random.fold_in(key, 1), jnp.zeros(1, jnp.float32))["params"]}

    def loss_history(self) -> LossHistory | None:
        """What the state has to remember of losses: something where t is drawn by importance."""
        if self.training.timestep_sampling != "importance":
            return None
        return LossHistory.empty(self.schedule.num_train_timesteps)

    def check_grid(self) -> None:
        """InputError unless the section ``sampling`` names a grid that the schedule has."""
        if not self.learns_schedule:
            self.sampling.levels(self.schedule, self.sampling.num_steps)
        elif self.sampling.num_steps is None:
            raise InputError("sampling.num_steps is missing: a learned schedule has no number of steps of its own")

    def loss_fn(self, *, train: bool) -> LossFn:
        """The loss; its dropout, of labels too, is on if train."""
        options = dict(
            prediction_type=self.diffusion.prediction_type,
            timestep_sampling=self.training.timestep_sampling,
            batch_size=self.training.batch_size,
            levels=self.image.levels,
            label_dropout=self.training.label_dropout if train else 0.0,
            train=train,
        )
        if self.learns_schedule:
            return variational_loss_fn(self.model, self.schedule, **options)
        return diffusion_loss_fn(
            self.model,
            self.schedule,
            variance_type=self.diffusion.variance_type,
            weighting=self.weighting,
            self_conditioning=self.training.self_conditioning,
            **options,
        )

    def pipeline(
        self, params: Any, *, guide: DiffusionPipeline | None = None, mapping: DeviceMapping | None = None
    ) -> DiffusionPipeline:
        """The sampler of this experiment's model with these parameters; by default on all devices."""
        return DiffusionPipeline(
            model=self.model,
            params=params,
            schedule=self.schedule_of if self.learns_schedule else self.schedule,
            prediction_type=self.diffusion.prediction_type,
            image=self.image,
            sampler=self.sampler,
            config=self.sampling,
            variance_type=self.diffusion.variance_type,
            has_null_class=self.training.label_dropout > 0,
            guide=guide,
            self_conditioning=self.training.self_conditioning,
            mapping=mapping or self.parallel.open(),
        )


@dataclasses.dataclass(frozen=True)
class VAEExperiment(Parts):
    """A variational autoencoder's."""

    likelihood: vae.Likelihood
    sampling: VAESamplingConfig

    window = VAEWindow

    def model_inputs(self) -> tuple[Any, ...]:
        """Arguments of the model for one image."""
        return (jnp.zeros((1, *self.image.shape), jnp.float32),)

    def init_params(self) -> Any:
        """The model's initial parameters, which depend on the seed alone."""
        return self.model.init(_init_key(self), *self.model_inputs())["params"]

    def loss_history(self) -> None:
        """There is no t to draw."""
        return None

    def loss_fn(self, *, train: bool) -> LossFn:
        """The loss; its dropout is on if train."""
        return vae_loss_fn(self.model, self.likelihood, self.image.levels, train=train)

    def pipeline(self, params: Any, *, guide: Any = None, mapping: DeviceMapping | None = None) -> VAEPipeline:
        """This experiment's model with these parameters, by default on all devices; it takes no guide."""
        if guide is not None:
            raise InputError("a variational autoencoder draws in one step and takes no guide: leave it out")
        return VAEPipeline(
            model=self.model,
            params=params,
            likelihood=self.likelihood,
            image=self.image,
            config=self.sampling,
            mapping=mapping or self.parallel.open(),
        )


Experiment = DiffusionExperiment | VAEExperiment


def init_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    return TrainState.create(
        experiment.init_params(),
        experiment.optimizer,
        window=experiment.window,
        loss_history=experiment.loss_history(),
    )


def _init_key(experiment: Parts) -> jax.Array:
    return jax.random.key(experiment.seed, impl="threefry2x32")
