"""What ``marble evaluate`` asks of a model, and what it says: a table, and all of it for metrics.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from marble.data.examples import Examples
from marble.diffusion.process import VarianceType
from marble.errors import InputError
from marble.pipelines.rows import whole
from marble.pipelines.tally import Estimate

DecoderName = Literal["exact", "tanh"]
DivergenceName = Literal["hutchinson", "exact"]
DequantisationName = Literal["variational", "uniform"]


@dataclasses.dataclass(frozen=True)
class Flow:
    """How the likelihood under the probability flow is computed: see ``marble.sampling.ode_likelihood``."""

    num_steps: int = 100
    """Steps of order 4, each with four calls of the network and its derivative."""
    divergence: DivergenceName = "hutchinson"
    """hutchinson: one vector of signs an image; exact: one derivative for each dimension of an image."""
    dequantisation: DequantisationName = "variational"
    """variational: by the forward process at its least noise, with the decoder; uniform: within the bins."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise InputError(f"{self.num_steps} steps of the probability flow: give at least 1")
        check_name("divergence", self.divergence, get_args(DivergenceName))
        check_name("dequantisation", self.dequantisation, get_args(DequantisationName))


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """How bits a dimension are measured; what a kind of model does not read is at its default. See ``bits_per_dim``."""

    num: int | None = None
    seed: int = 0
    batch_size: int | None = None
    variance_type: VarianceType | None = None
    decoder: DecoderName | None = None
    flow: Flow | None = None


class Measured(NamedTuple):
    """What was found."""

    num: int
    """Images."""
    rows: Mapping[str, Estimate]
    """The table, in bits a dimension."""
    settings: Mapping[str, Any]
    """How it was found."""
    note: str
    """The settings that the table's heading tells."""
    kept: Mapping[str, Any]
    """What metrics.json keeps, in numbers, lists and dicts."""


def num_images(examples: Examples, num: int | None) -> int:
    """How many images are measured; InputError for what are no examples, or for more than there are."""
    if not isinstance(examples, Examples):
        raise InputError(f"examples of type {type(examples).__name__}: give ArrayExamples(image=...) of an array")
    if not len(examples):
        raise InputError("0 examples given: give at least 1")
    num = len(examples) if num is None else whole("num", num)
    if not 1 <= num <= len(examples):
        raise InputError(f"num={num} must be between 1 and {len(examples)}, the number of images in the split")
    return num


def check_name(what: str, name: str, names: Any) -> None:
    """InputError for a name that is none of names."""
    if name not in names:
        raise InputError(f"{what} {name!r} is not one of {', '.join(names)}")
