"""The protocol of an objective: all that a run has to know of what it trains.

An objective is one class in one file, and one entry of ``marble.builders.OBJECTIVES``, by which ``config.objective``
finds it. The class says which sections a config of it has, and builds itself from such a config.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import numpy as np
import optax

from marble.conditioning import Origin
from marble.data.examples import Examples
from marble.data.sources import Source
from marble.errors import InputError
from marble.parallel import WHOLE, Across, DeviceMapping
from marble.schema import Reading, Section
from marble.training.config import TrainingConfig
from marble.training.state import Memory
from marble.training.step import LossFn
from marble.typing import Array, ImageSpec


class Given(NamedTuple):
    """What an objective is built from, beside its part of the config."""

    training: TrainingConfig
    image: ImageSpec
    """Of the data."""
    class_names: Sequence[str] | None
    """Of the data, where it names its classes."""
    parts: Mapping[str, Any]
    """What the config chose by the objective's ``choices``."""
    texts: Callable[[int], Sequence[str]] | None = None
    """At most so many of the training data's texts; None where the data are not at hand."""
    folder: str | None = None
    """The workdir, where there is one."""


class Objective(Protocol):
    """One kind of training."""

    sections: ClassVar[Mapping[str, Section]]
    """Its part of a config: sections of its own, and its keys of the sections that all have."""
    choices: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Keys of a config that name a further part: a class with ``sections`` too. The first name is the default."""

    draws: ClassVar[bool]
    """Whether its pipeline draws images: a run's samples can then be measured."""
    model: nn.Module
    image: ImageSpec
    keys: Sequence[str]
    """What a batch must hold beside ``image`` and ``index``."""

    @classmethod
    def followed(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config with the keys that follow from others where it does not state them."""

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "Objective":
        """The objective of a config; InputError where its words don't go together."""

    def check(self) -> None:
        """InputError for what can't be trained, though it could be loaded."""

    def check_data(self, name: str, num_classes: int | None) -> None:
        """InputError where the data set of that name does not have what is to be learned."""

    def read(self, examples: Examples, origin: Origin | None) -> Examples:
        """The examples with what batches must hold beside the data's own, such as the tokens of texts.

        Without an origin they only stand for the shapes of others.
        """

    def init_params(self, key: Array) -> Any:
        """The initial parameters."""

    def optimizer(self, made: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimiser of the parameters, of the config's: one for each of several networks."""

    def loss_history(self) -> Memory | None:
        """What the state has to remember of the steps before."""

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss of prepared batches, in training with dropout; its metrics are sums over images.

        across is of the devices' mapping: what a loss that is no mean of the images' own has to ask.
        """

    adapts: bool
    """Whether what is trained are adapters of the network of ``config.init_from``, without which it is nothing."""
    base_shapes: Any
    """The shapes of the parameters of ``config.init_from`` where the loss reads them: what is adapted, or a teacher's.
    Else None."""

    def frozen(self, base: Any = None) -> Any:
        """What the loss takes as its argument frozen: arrays, on the host, that no step changes; None for nothing.

        base are the parameters of which ``base_shapes`` are the shapes.
        """

    def whole(self, params: Any, frozen: Any) -> Any:
        """The network's parameters, made of what is trained and what is frozen."""

    def sums(self) -> Mapping[str, Array]:
        """The metrics of the loss over nothing."""

    def log(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """What the log says of such sums, beside the loss."""

    def loss_and_count(self, sums: Mapping[str, Any]) -> tuple[Any, Any]:
        """The sum of the loss over the images of such sums, and their number."""

    def pipeline(self, params: Any, *, mapping: DeviceMapping, guide: Any = None, classifier: Any = None) -> Any:
        """What the trained model is used through, with these parameters.

        guide is a weaker model's, classifier a ``marble.pipelines.Classifier`` of noisy images.
        """

    def examples(self, num: int) -> Mapping[str, Any]:
        """What to ask its pipeline for, in ``sample``, to have num images that show what it can do."""

    def grid(self, pipe: Any, params: Any, held_out: Examples | None, *, num: int, seed: int) -> np.ndarray | None:
        """num images [num h w c] that show what its pipeline can do with these parameters; None where it makes none."""

    def judged(self, pipe: Any, params: Any, held_out: Examples) -> Mapping[str, float]:
        """What the log says of held-out examples beside the loss, of its pipeline with these parameters."""

    def keep(self, folder: Path) -> None:
        """Puts into the workdir what the objective was built with and no config says; called when a run begins."""

    def publish(self, folder: Path, pipe: Any, params: Any, source: Source) -> None:
        """Called when the training has ended: leaves in the workdir what other runs and libraries read of it.

        params are those that were trained, averaged; source is what they were trained on.
        """


class Plain:
    """What an objective has that trains all its parameters, freezes nothing, and remembers nothing but them."""

    draws = True
    adapts = False
    base_shapes = None
    choices: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def followed(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config as it is."""
        return config

    def check(self) -> None:
        """What can be loaded can be trained."""

    def check_data(self, name: str, num_classes: int | None) -> None:
        """Any will do."""

    def read(self, examples: Examples, origin: Origin | None) -> Examples:
        """The examples as they are."""
        del origin
        return examples

    def optimizer(self, made: optax.GradientTransformation) -> optax.GradientTransformation:
        """One for all parameters."""
        return made

    def frozen(self, base: Any = None) -> Any:
        """Nothing."""

    def whole(self, params: Any, frozen: Any) -> Any:
        """What is trained."""
        return params

    def loss_history(self) -> None:
        """Nothing."""

    def judged(self, pipe: Any, params: Any, held_out: Examples) -> Mapping[str, float]:
        """Nothing beside the loss."""
        return {}

    def keep(self, folder: Path) -> None:
        """Nothing beside the config."""

    def publish(self, folder: Path, pipe: Any, params: Any, source: Source) -> None:
        """Nothing beside the checkpoints."""

    def examples(self, num: int) -> Mapping[str, Any]:
        """Nothing is asked for."""
        del num
        return {}


def refuse_guides(what: str, guide: Any, classifier: Any) -> None:
    """InputError where something is to guide what draws nothing in steps."""
    for name, given in {"guide": guide, "classifier": classifier}.items():
        if given is not None:
            raise InputError(f"{what} draws nothing in steps and takes no {name}: leave it out")
