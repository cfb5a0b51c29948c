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
from marble.convert.unread import unread
from marble.data.declared import Declared, declared
from marble.data.examples import ArrayExamples
from marble.errors import InputError
from marble.experiments import Experiment
from marble.loading import PUBLISHED, in_dtype, recalled
from marble.operations import operations
from marble.parallel import MeshMapping
from marble.parallel.program import Figures, figures_of, shard_bytes
from marble.pipelines.rows import fitting_batch_size
from marble.planned import Part, Plan, remedies
from marble.run import check_parts, make_train_step_of
from marble.schema import DTYPES
from marble.training.step import several_steps
from marble.typing import ImageSpec

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0, 60.0
"""When the log first says that a program is still being compiled, and the longest that it is silent after that."""


class Subject(NamedTuple):
    """What is planned."""

    config: Mapping[str, Any]
    """A complete one."""
    images: Declared
    class_names: Sequence[str] | None = None
    is_trained: bool = True
    of_workdir: bool = False
    dtype: str | None = None
    """What the sampler computes in and holds its parameters in, in place of the config's, as ``marble.load`` has it."""

    def built(self, config: Mapping[str, Any]) -> Experiment:
        """The parts of a config for these images; of the frozen ones no weights are read."""
        image = ImageSpec(self.images.image_shape, self.images.levels)
        with unread():
            return builders.build(config, image, class_names=self.class_names)


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
    return _planned(Subject(config, images), devices, sampler=sampler, cache=cache)


def plan_workdir(
    workdir: str,
    devices: Sequence[jax.Device],
    *,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: config,
    batch_size: int | None = None,
    dtype: str | None = None,
    sampler: bool = True,
    cache: str | None = None,
) -> Plan:
    """The same for a run's workdir, or the sampler alone for a published checkpoint, converted or not.

    No weights are read. change makes another config of the workdir's. batch_size and dtype are as in
    ``marble.load(workdir).sample``, and of the sampler alone.
    """
    kept, data = recalled(workdir)
    is_trained, config = data.originals != PUBLISHED, builders.complete(kept)
    if not is_trained and not sampler:
        raise InputError(f"{workdir} is no run: there is no train step to plan, leave --no_sampler out")
    config = builders.complete(change(config))
    if batch_size is not None:
        config.sampling.batch_size = batch_size
    images = Declared(tuple(data.image.shape), data.image.levels, data.class_names and len(data.class_names))
    subject = Subject(config, images, data.class_names, is_trained, of_workdir=True, dtype=dtype)
    return _planned(subject, devices, sampler=sampler, cache=cache)


def _planned(subject: Subject, devices: Sequence[jax.Device], *, sampler: bool, cache: str | None) -> Plan:
    experiment = subject.built(subject.config)
    mapping = experiment.parallel.open(tuple(devices))
    if not isinstance(mapping, MeshMapping):
        raise InputError("parallel.mapping='pmap' compiles when it runs: plan with --config.parallel.mapping=mesh")
    _check(subject, experiment, mapping)
    objective = experiment.objective
    frozen = mapping.shapes_of(objective.frozen(objective.base_shapes))
    state = mapping.shapes(experiment.init_state).replace(frozen=frozen)
    parts = [_train_part(experiment, subject.images, mapping, state, cache)] if subject.is_trained else []
    if sampler and objective.draws:
        whole = mapping.shapes_of(jax.eval_shape(objective.whole, state.ema_params, frozen))
        parts.append(_sample_part(subject, experiment, mapping, whole, cache))
    num_parameters, num_frozen = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, frozen))
    made = Plan(mapping.devices, num_parameters, num_frozen, tuple(parts))
    found = remedies(made, subject.config, dtype=subject.dtype, of_workdir=subject.of_workdir)
    return made._replace(remedies=tuple(found))


def _check(subject: Subject, experiment: Experiment, mapping: MeshMapping) -> None:
    """InputError for parts that don't fit each other or the devices."""
    if not subject.is_trained:
        return experiment.objective.check()
    check_parts(experiment, mapping)
    if not subject.of_workdir and subject.images.num_classes is not None:
        experiment.objective.check_data(experiment.data.name, subject.images.num_classes)


def batch_shapes(experiment: Experiment, images: Declared, mapping: MeshMapping) -> Any:
    """The shapes of one step's batch as the loader gives it [1 b ...]."""
    size = (1, experiment.training.batch_size)
    rows = {"image": np.empty((*size, *images.image_shape), np.uint8), "index": np.empty(size, np.int32)}
    if images.num_classes is not None or "label" in experiment.objective.keys:
        rows["label"] = np.empty(size, np.int32)
    one = experiment.objective.read(ArrayExamples(rows["image"][0, :1], text=[""]), None).take([0])
    rows |= {name: np.empty((*size, *row.shape[1:]), row.dtype) for name, row in one.items() if name not in rows}
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
        frozen=shard_bytes(state.frozen),
        state=shard_bytes(state),
        figures=_figures("train step", lambda: mapping.lower_step(step, state, batch, key), mapping, cache),
    )


def _sample_part(
    subject: Subject, experiment: Experiment, mapping: MeshMapping, params: Any, cache: str | None
) -> Part:
    if subject.dtype is not None:
        experiment = subject.built(in_dtype(subject.config, subject.dtype))
        held = lambda x: jax.ShapeDtypeStruct(x.shape, DTYPES[subject.dtype], sharding=x.sharding)  # noqa: E731
        params = jax.tree.map(held, params)
    pipeline, frozen = experiment.pipeline(None, mapping=mapping), experiment.objective.frozen()
    figures, once = _figures("sampler", lambda: pipeline.lower(params), mapping, cache), 0.0
    if frozen is not None and figures.flops is not None:
        step, once = (flops / len(mapping.devices) for flops in operations(pipeline, params))
        figures = figures._replace(flops=step + once)
    parameters, beside = shard_bytes(params), shard_bytes(mapping.shapes_of(frozen))
    return Part(
        name="sample",
        num_images=fitting_batch_size(pipeline.config.batch_size, mapping),
        num_steps=pipeline.num_steps(),
        parameters=parameters,
        frozen=beside,
        state=parameters + beside,
        figures=figures,
        once_flops=once,
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
