"""The protocol of an objective: all that a run has to know of what it trains.

An objective is one class in one file, and one entry of ``marble.builders.OBJECTIVES``, by which ``config.objective``
finds it. The class says which sections a config of it has, and builds itself from such a config.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn

from marble.diffusion.timesteps import LossHistory
from marble.parallel import DeviceMapping
from marble.schema import Reading, Section
from marble.training.config import TrainingConfig
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


class Objective(Protocol):
    """One kind of training."""

    sections: ClassVar[Mapping[str, Section]]
    """Its part of a config: sections of its own, and its keys of the sections that all have."""
    choices: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Keys of a config that name a further part: a class with ``sections`` too. The first name is the default."""

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

    def init_params(self, key: Array) -> Any:
        """The initial parameters."""

    def loss_history(self) -> LossHistory | None:
        """What the state has to remember of losses."""

    def loss_fn(self, *, train: bool) -> LossFn:
        """The loss of prepared batches, in training with dropout; its metrics are sums over images."""

    base_shapes: Any
    """The shapes of the network's parameters where what is trained are adapters of them, or None."""

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
        """Arguments of the pipeline's ``sample`` that show what the model can do, in num images."""
