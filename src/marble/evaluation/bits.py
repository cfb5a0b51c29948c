"""Bits a dimension of a run's model on a split of its data, with all that they were measured with."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from marble import builders, loading, workdir
from marble.errors import InputError
from marble.parallel import explained_memory_error
from marble.pipelines import Estimate, Flow
from marble.pipelines.measured import MeasureOptions


@dataclasses.dataclass(frozen=True)
class BitsOptions:
    """How bits a dimension are measured: see ``marble.pipelines.bits_per_dim``."""

    split: str | None = None
    """None is the held-out one."""
    variance_type: str | None = None
    decoder: str | None = None
    flow: Flow | None = dataclasses.field(default_factory=Flow)
    """The likelihood under the probability flow; None leaves it out."""


class Bits(NamedTuple):
    """What was found."""

    split: str
    entry: str
    """The key in metrics.json: of a part of a split, ``test[8]``, which never takes the place of the whole."""
    settings: Mapping[str, Any]
    note: str
    rows: Mapping[str, Estimate]
    """The table."""
    kept: Mapping[str, Any]
    """What metrics.json keeps."""

    def lines(self) -> list[str]:
        """The table as it is printed."""
        settings = self.settings
        heading = (
            f"{self.split}: {settings['num']} images of {settings['levels']} levels, checkpoint {settings['step']}, "
            f"{settings['params']}, seed {settings['seed']}{self.note}\n{'':34}  bits/dim   standard error"
        )
        return [heading, *rows_of(self.rows)]


def measured_bits(
    directory: str,
    *,
    which: Mapping[str, Any],
    num: int | None,
    seed: int,
    batch_size: int | None,
    options: BitsOptions,
    at_most: bool = False,
    given: Mapping[str, str] = MappingProxyType({}),
    progress: bool = False,
) -> Bits:
    """Measures the run of a workdir, on num of the split's images, or with at_most on all where there are fewer.

    which are the arguments of ``marble.load`` that say which parameters are taken; given are the options that were
    given, and by what names. InputError for a published checkpoint, data that changed, a split that is not there, or
    options that are not read.
    """
    if loading.is_published(directory):
        raise InputError(f"{directory} is a published checkpoint, whose data are not known: evaluate runs")
    config, data = workdir.recall(directory)
    source = builders.data_config(config).open()
    if (tuple(source.image_shape), source.levels) != data.image:
        raise InputError(f"{directory} was trained on {data.image}, but {source.name} has {source.image_shape} now")
    split = options.split or source.held_out
    if split is None:
        raise InputError(f"{source.name} has no held-out split: give --split {'|'.join(source.splits)}")
    examples = source.read(split)
    num = None if at_most and num is not None and num >= len(examples) else num
    step, pipe = loading.load_step(directory, **which)
    for name, reason in pipe.options_unread().items():
        if name in given:
            raise InputError(f"{given[name]} {reason}: leave it out")
    asked = MeasureOptions(num, seed, batch_size, options.variance_type, options.decoder, options.flow)
    with explained_memory_error():
        found = pipe.measure(examples, asked, progress=progress)
    settings = {
        "step": step,
        "params": params_name(raw_params=bool(which.get("raw_params")), ema_length=which.get("ema_length")),
        **{name: which[name] for name in ("dtype", "lora") if which.get(name) is not None},
        "seed": seed,
        "levels": data.image.levels,
        "num": found.num,
        **found.settings,
    }
    entry = split if found.num == len(examples) else f"{split}[{found.num}]"
    return Bits(split, entry, settings, found.note, found.rows, {**settings, **found.kept})


def params_name(*, raw_params: bool, ema_length: float | None) -> str:
    """What the parameters are called that were measured."""
    if ema_length is not None:
        return f"average of length {ema_length:g}"
    return "params" if raw_params else "ema_params"


def rows_of(estimates: Mapping[str, Any]) -> list[str]:
    """One line an estimate."""
    # Adding 0.0 makes -0.0 plain: a KL of rounding errors is no less than 0.
    return [f"{name:34}  {round(e.mean, 5) + 0.0:8.5f}   {e.standard_error:.5f}" for name, e in estimates.items()]
