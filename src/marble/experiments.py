"""An experiment: all the parts of a config, built."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from marble.conditioning import Origin
from marble.data.examples import Examples
from marble.data.preprocess import prepare_batch
from marble.data.sources import TRAIN, Source, open_source, with_held_out
from marble.errors import InputError
from marble.objectives.objective import Objective
from marble.parallel import WHOLE, Across, DeviceMapping, ParallelConfig
from marble.training.config import EvaluationConfig, TrainingConfig
from marble.training.post_hoc_ema import LENGTHS
from marble.training.state import TrainState
from marble.training.step import LossFn
from marble.typing import Array, Batch, ImageSpec


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
    held_out: int | None = None
    """Of data without a held-out split: so many training images, from all over them, become their validation split."""

    def __post_init__(self) -> None:
        if self.held_out is not None and self.held_out < 1:
            raise InputError(f"data.held_out={self.held_out} must be at least 1, or None for none")
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"data.image_size={self.image_size} must be at least 1")

    def open(self) -> Source:
        """The data set."""
        source = open_source(self.name, source=self.source, data_dir=self.data_dir, image_size=self.image_size)
        return source if self.held_out is None else with_held_out(source, self.held_out)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is trained, on what data, and how."""

    seed: int
    data: DataConfig
    objective: Objective
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    training: TrainingConfig
    image: ImageSpec
    evaluation: EvaluationConfig
    parallel: ParallelConfig

    def init_params(self) -> Any:
        """The initial parameters, which depend on the seed alone."""
        return self.objective.init_params(jax.random.key(self.seed, impl="threefry2x32"))

    def init_state(self) -> TrainState:
        """The state before the first step."""
        return TrainState.create(
            self.init_params(),
            self.optimizer,
            sums=self.objective.sums(),
            loss_history=self.objective.loss_history(),
            num_averages=len(LENGTHS) if self.training.post_hoc_ema else 0,
        )

    def read(self, source: Source, split: str, mapping: DeviceMapping) -> Examples:
        """The examples of a split as batches are made of them."""
        flips = self.data.flip and split == TRAIN
        return self.objective.read(source.read(split), Origin(split, source.originals, flips, mapping))

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss of batches as they come from the loader, with integers for pixels; train flips and drops out.

        across is the mapping's for which it is compiled.
        """
        of_prepared, flips = self.objective.loss_fn(train=train, across=across), self.data.flip and train

        def loss_fn(params: Any, batch: Batch, key: Array, *memory: Any) -> Any:
            flip_key, loss_key = jax.random.split(key)
            prepared = prepare_batch(batch, flip_key, levels=self.image.levels, flips=flips)
            return of_prepared(params, prepared, loss_key, *memory)

        return loss_fn

    def pipeline(
        self, params: Any, *, guide: Any = None, classifier: Any = None, mapping: DeviceMapping | None = None
    ) -> Any:
        """What the model is used through, with these parameters; by default on all devices."""
        mapping = mapping or self.parallel.open()
        return self.objective.pipeline(params, mapping=mapping, guide=guide, classifier=classifier)
