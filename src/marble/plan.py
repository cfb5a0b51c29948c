"""What a config needs of devices that need not be there: memory, arithmetic and communication, by compiling it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event, Thread
from typing import Any, NamedTuple

import jax
import numpy as np

from marble import builders
from marble.data.declared import Declared, declared
from marble.errors import InputError
from marble.experiments import Experiment
from marble.parallel import MeshMapping
from marble.parallel.chips import peak_flops
from marble.parallel.program import Figures, device_memory, figures_of, shard_bytes
from marble.pipelines.rows import fitting_batch_size
from marble.run import check_parts, make_train_step_of
from marble.training.step import several_steps
from marble.typing import ImageSpec

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0, 60.0
"""When the log first says that a program is still being compiled, and the longest that it is silent after that."""


class Part(NamedTuple):
    """One program on its devices."""

    name: str
    num_images: int
    """Of a call, on all devices."""
    num_steps: int
    """How often ``figures.flops`` are done until there is a result: a train step's once, a sampler's at each step."""
    parameters: int
    """The bytes of them that one device has."""
    state: int
    """The same of all that is kept from call to call: the parameters among it."""
    figures: Figures


class Plan(NamedTuple):
    """What the programs of a config need."""

    devices: tuple[jax.Device, ...]
    num_parameters: int
    parts: tuple[Part, ...]
    remedies: tuple[str, ...]
    """What to change, where something does not fit."""

    @property
    def memory(self) -> float | None:
        """The bytes that each device has; None where that is not known."""
        return device_memory(self.devices)

    def fits(self, part: Part) -> bool:
        """Whether a device has room for this program; yes where its memory is not known and the compiler is content."""
        used = part.figures.memory
        return used is not None and (self.memory is None or used <= self.memory)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it: bytes of each device, operations of all."""
        first, peak = self.devices[0], peak_flops(self.devices[0].device_kind)
        return {
            "devices": {"kind": first.device_kind, "count": len(self.devices), "memory": self.memory, "flops": peak},
            "parameters": self.num_parameters,
            "fits": all(map(self.fits, self.parts)),
            "remedies": list(self.remedies),
            **{part.name: self._part(part, peak) for part in self.parts},
        }

    def _part(self, part: Part, peak: float | None) -> dict[str, Any]:
        flops = part.figures.flops
        of_all = None if flops is None else flops * len(self.devices)
        return {
            "fits": self.fits(part),
            "fault": part.figures.fault,
            "images": part.num_images,
            "steps": part.num_steps,
            "memory": {
                "parameters": part.parameters,
                "state": part.state,
                "arguments": part.figures.arguments,
                "outputs": part.figures.outputs,
                "temporaries": part.figures.temporaries,
                "code": part.figures.code,
                "total": part.figures.memory,
            },
            "flops_per_image": of_all and of_all / part.num_images,
            "flops_per_step": of_all,
            "collective_bytes": part.figures.collectives,
            "seconds_at_peak": peak and flops and flops * part.num_steps / peak,
        }


def plan(
    config: Mapping[str, Any],
    devices: Sequence[jax.Device],
    *,
    image_shape: tuple[int, int, int] | None = None,
    sampler: bool = True,
    cache: str | None = None,
) -> Plan:
    """Compiles the train step of a complete config, and its sampler, for these devices; the data set is not opened.

    image_shape is for data sets whose images are of no known shape; cache is a folder that keeps the figures.
    InputError where parts don't fit each other or the devices, as when training.
    """
    found = builders.data_config(config)
    images = declared(found.name, image_size=found.image_size, image_shape=image_shape)
    experiment = builders.build(config, ImageSpec(images.image_shape, images.levels))
    mapping = experiment.parallel.open(tuple(devices))
    if not isinstance(mapping, MeshMapping):
        raise InputError("parallel.mapping='pmap' compiles when it runs: plan with --config.parallel.mapping=mesh")
    check_parts(experiment, mapping)
    if images.num_classes is not None:
        experiment.objective.check_data(found.name, images.num_classes)
    state = mapping.shapes(experiment.init_state)
    parts = [_train_part(experiment, images, mapping, state, cache)]
    if sampler:
        parts.append(_sample_part(experiment, mapping, state.ema_params, cache))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    made = Plan(mapping.devices, count, tuple(parts), ())
    return made._replace(remedies=tuple(_remedies(made, config)))


def batch_shapes(experiment: Experiment, images: Declared, mapping: MeshMapping) -> Any:
    """The shapes of one step's batch as the loader gives it [1 b ...]."""
    size = (1, experiment.training.batch_size)
    rows = {"image": np.empty((*size, *images.image_shape), np.uint8), "index": np.empty(size, np.int32)}
    if images.num_classes is not None or "label" in experiment.objective.keys:
        rows["label"] = np.empty(size, np.int32)
    return mapping.row_shapes(rows, batch_axis=1)


def _train_part(experiment: Experiment, images: Declared, mapping: MeshMapping, state: Any, cache: str | None) -> Part:
    step = several_steps(make_train_step_of(experiment, mapping), mapping.scan)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=mapping.everywhere)
    batch = batch_shapes(experiment, images, mapping)
    return Part(
        name="train",
        num_images=experiment.training.batch_size,
        num_steps=1,
        parameters=shard_bytes(state.params),
        state=shard_bytes(state),
        figures=_figures("train step", lambda: mapping.lower_step(step, state, batch, key), mapping, cache),
    )


def _sample_part(experiment: Experiment, mapping: MeshMapping, params: Any, cache: str | None) -> Part:
    pipeline = experiment.pipeline(None, mapping=mapping)
    return Part(
        name="sample",
        num_images=fitting_batch_size(pipeline.config.batch_size, mapping),
        num_steps=pipeline.num_steps(),
        parameters=shard_bytes(params),
        state=shard_bytes(params),
        figures=_figures("sampler", lambda: pipeline.lower(params), mapping, cache),
    )


def _figures(what: str, lower: Callable[[], jax.stages.Lowered], mapping: MeshMapping, cache: str | None) -> Figures:
    kind = f"{len(mapping.devices)} x {mapping.devices[0].device_kind}"
    with _progress(f"compiling the {what} for {kind}"):
        return figures_of(lower(), mapping.devices, cache)


@contextlib.contextmanager
def _progress(doing: str) -> Iterator[None]:
    """A block of which the log says, now and then, how long it has taken."""
    began, ended = time.monotonic(), Event()

    def tell() -> None:
        silence, longest = PROGRESS_SECONDS
        while not ended.wait(silence):
            logger.info("%s: %.0f s", doing, time.monotonic() - began)
            silence = min(2 * silence, longest)

    logger.info("%s", doing)
    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    logger.info("%s: done in %.0f s", doing, time.monotonic() - began)


def _remedies(made: Plan, config: Mapping[str, Any]) -> Iterator[str]:
    """What makes the programs that don't fit smaller, the cheapest first."""
    too_large = [part.name for part in made.parts if not made.fits(part)]
    count, training, model = len(made.devices), config["training"], config["model"]
    if "train" in too_large:
        share = training["batch_size"] // count // training["accumulate"]
        if share > 1:
            factor = next(k for k in range(2, share + 1) if share % k == 0)
            yield f"--config.training.accumulate={training['accumulate'] * factor}"
        if model.get("remat") is False:
            yield "--config.model.remat=True"
    if "sample" in too_large and config["sampling"]["batch_size"] > count:
        yield f"--config.sampling.batch_size={max(count, config['sampling']['batch_size'] // 2)}"
    if too_large and model["dtype"] == "float32":
        yield "--config.model.dtype=bfloat16"
    if too_large and count > 1 and config["parallel"]["sharding"] == "replicated":
        yield "--config.parallel.sharding=fsdp"
    if "train" in too_large:
        yield "more devices, or a smaller --batch_size"
