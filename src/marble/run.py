"""One training run, from a config to trained parameters in a workdir."""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from marble import builders, workdir
from marble.data.loader import eval_batches, to_device, train_batches
from marble.data.sources import HELD_OUT, TRAIN, Source
from marble.errors import InputError
from marble.evaluation.in_training import measuring
from marble.experiments import Experiment
from marble.init_from import with_parameters_of
from marble.loading import base_of
from marble.parallel import DeviceMapping, agreement, check_divides, explained_memory_error, hosts, in_32_bits
from marble.pipelines.pictures import save_png
from marble.storage import check_bucket, is_remote, run_path
from marble.training.interruption import Interruption
from marble.training.intervals import HELD_OUT_LOSS, Hooks
from marble.training.loop import call_lengths, restore_or_init, train
from marble.training.operation import Profile
from marble.training.state import TrainState
from marble.training.step import make_train_step, several_steps
from marble.typing import Array, Batch, ImageSpec

logger = logging.getLogger(__name__)

FOLDERS = (
    ("text", "encoders"),
    ("text", "tokenizers"),
    ("autoencoder", "path"),
    ("autoencoder", "cache"),
    ("tokenizer", "path"),
)
"""The keys of a config that name folders."""
MOST_CLASSES = 20
"""Of which the log gives number and name."""
NUM_SAMPLES = 64
"""Images in a grid drawn while training."""


def run(
    config: ml_collections.ConfigDict,
    directory: str,
    interruption: Interruption | None = None,
    profile: Profile | None = None,
) -> TrainState:
    """Trains as the complete config says, in this workdir; if a run began there, goes on with it.

    ``interruption`` is an open one, which tells when to stop; by default signals are not handled. InputError, before
    anything is written, for what does not fit: config, data, workdir, devices. Where the environment names other
    processes, they train together, and the first one alone reads and writes the workdir; PeerLostError when one is
    gone.
    """
    directory = run_path("the workdir", directory)
    config = with_whole_paths(config)
    parallel = builders.parallel_config(config)
    text = json.dumps(config.to_dict(), sort_keys=True)
    same = dict(config=text, workdir=directory)
    timeout = parallel.heartbeat_timeout_seconds
    interruption = interruption or Interruption()
    interruption.run(lambda: hosts.start(heartbeat_timeout_seconds=timeout))  # which waits for others, for minutes
    with hosts.joined(**same), explained_memory_error():
        return _run(config, directory, interruption, profile)


def _run(
    config: ml_collections.ConfigDict, directory: str, interruption: Interruption, profile: Profile | None
) -> TrainState:
    agreement.from_first(lambda: check_bucket(directory))
    source = builders.data_config(config).open()
    source = dataclasses.replace(source, load=functools.cache(source.load))  # several parts read a split, once
    image = ImageSpec(shape=tuple(source.image_shape), levels=source.levels)
    texts = lambda limit: source.read(TRAIN).texts(limit)  # noqa: E731
    experiment = builders.build(config, image, class_names=source.class_names, texts=texts, folder=directory)
    mapping = experiment.parallel.open()
    check(experiment, source, mapping)
    train_key, eval_key = jax.random.split(jax.random.key(experiment.seed, impl="threefry2x32"))

    init = experiment.init_state
    jax.eval_shape(init)  # a model that does not fit the images fails here, before anything is written
    facts = workdir.DataFacts(image, dict(source.splits), source.originals, source.class_names)
    agreement.check_same("data", repr(facts))
    if "label" in experiment.objective.keys and source.class_names:
        listed = [f"{number} {name}" for number, name in enumerate(source.class_names[:MOST_CLASSES])]
        more = ["..."] if source.num_classes > MOST_CLASSES else []
        logger.info("%d classes: %s", source.num_classes, ", ".join([*listed, *more]))
    for line in agreement.from_first(lambda: workdir.check(directory, config.to_dict(), facts, builders.as_now)):
        logger.info("changed since this run began: %s", line)
    pipe = experiment.pipeline(params=None)
    measure = measuring(experiment, source, pipe, mapping, name=directory) if experiment.evaluation.every else None
    base = base_of(experiment.objective, config.init_from)
    with contextlib.ExitStack() as held:
        agreement.from_first(lambda: held.enter_context(workdir.locked(directory)))
        state = restore_or_init(directory, init, mapping)
        start_step = int(state.step)
        if config.init_from is not None and start_step == 0 and not experiment.objective.adapts:
            state = with_parameters_of(state, config.init_from, mapping, partial=config.init_from_partial)
        if start_step > experiment.training.num_steps:
            raise InputError(
                f"{directory} is at step {start_step}, past training.num_steps={experiment.training.num_steps}: "
                "raise that"
            )
        agreement.from_first(lambda: workdir.remember(directory, config.to_dict(), facts))
        agreement.from_first(lambda: experiment.objective.keep(epath.Path(directory)))
        state = state.replace(frozen=mapping.place(experiment.objective.frozen(base)))
        draws = experiment.training.sample_every or experiment.evaluation.every
        reads = experiment.training.eval_every or (draws and experiment.objective.adapts)
        # The state's own arrays are donated to its next step.
        for_hooks = jax.tree.map(jnp.copy, state.frozen) if reads else None
        whole = whole_network(experiment, for_hooks)
        return train(
            workdir=directory,
            config=experiment.training,
            evaluation=experiment.evaluation,
            state=state,
            run_steps=several_steps(make_train_step_of(experiment, mapping), mapping.scan),
            batches=device_batches(experiment, source, mapping, start_step=start_step),
            key=train_key,
            hooks=Hooks(
                learning_rate=in_32_bits(lambda step: float(experiment.learning_rate(step))),
                evaluate=judged(experiment, source, mapping, eval_key, for_hooks, pipe, whole),
                sample=sample_grid(experiment, directory, source, pipe, whole),
                measure=lambda params, step: measure(whole(params), step),
                log=experiment.objective.log,
                finish=lambda params: experiment.objective.publish(epath.Path(directory), pipe, params, source),
            ),
            mapping=mapping,
            interruption=interruption,
            profile=profile,
            hang_seconds=experiment.parallel.hang_seconds,
        )


def with_whole_paths(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the folders that the run reads whenever it is used as they are called from anywhere."""

    def whole(path: str) -> str:
        return path if is_remote(path) else os.path.abspath(os.path.expanduser(path))

    config = config.copy_and_resolve_references()
    if config.init_from is not None:
        config.init_from = whole(config.init_from)
    for section, key in FOLDERS:
        if section in config:
            value = config[section][key]
            if value is not None:
                config[section][key] = whole(value) if isinstance(value, str) else tuple(map(whole, value))
    return config


def check(experiment: Experiment, source: Source, mapping: DeviceMapping) -> None:
    """InputError for parts that don't fit each other, the data or the devices."""
    if TRAIN not in source.splits:
        raise InputError(f"{source.name} has no split {TRAIN!r} to train on; there are: {', '.join(source.splits)}")
    check_parts(experiment, mapping)
    if experiment.training.eval_every and source.held_out is None:
        raise InputError(f"{source.name} has no held-out split ({' or '.join(HELD_OUT)}): set training.eval_every=0")
    experiment.objective.check_data(source.name, source.num_classes)
    held = ["image", *(["label"] if source.num_classes else [])]
    if missing := [key for key in experiment.objective.keys if key not in held]:
        raise InputError(f"batches of {source.name} have {', '.join(held)}, but the model needs {', '.join(missing)}")


def check_parts(experiment: Experiment, mapping: DeviceMapping) -> None:
    """InputError for parts that don't fit each other or the devices, whatever the data."""
    training, count = experiment.training, len(mapping.devices)
    experiment.objective.check()
    check_divides("training.batch_size", training.batch_size, mapping)
    if training.batch_size % (training.accumulate * count):
        raise InputError(
            f"training.accumulate={training.accumulate} does not divide the {training.batch_size // count} images that "
            f"each of {count} devices has of a batch of {training.batch_size}"
        )
    if experiment.evaluation.every and not experiment.objective.draws:
        raise InputError(
            f"evaluation.every={experiment.evaluation.every} measures samples, and this objective draws none: set it "
            "to 0; training.eval_every says what there is to say of held-out images"
        )
    if experiment.evaluation.every % training.steps_per_call:
        raise InputError(
            f"evaluation.every={experiment.evaluation.every} must be a multiple of "
            f"training.steps_per_call={training.steps_per_call}"
        )


def make_train_step_of(experiment: Experiment, mapping: DeviceMapping) -> Callable[..., Any]:
    """The train step on the loader's uint8 batches, for the programs of a mapping."""
    return make_train_step(
        experiment.loss_fn(train=True, across=mapping.across),
        experiment.optimizer,
        ema_decay=experiment.training.ema_decay,
        ema_warmup=experiment.training.ema_warmup,
        accumulate=experiment.training.accumulate,
        averaged=mapping.averaged,
        scan=mapping.scan,
    )


def device_batches(
    experiment: Experiment, source: Source, mapping: DeviceMapping, *, start_step: int
) -> Iterator[Batch]:
    """The batches of each compiled call, [n b ...], on the devices before they are asked for."""
    host = train_batches(
        experiment.read(source, TRAIN, mapping),
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    def stacked() -> Iterator[dict[str, np.ndarray]]:
        for length in call_lengths(start_step, experiment.training):
            yield jax.tree.map(lambda *rows: np.stack(rows), *itertools.islice(host, length))

    return to_device(stacked(), lambda batch: mapping.put_part(batch, batch_axis=1))


def judged(
    experiment: Experiment,
    source: Source,
    mapping: DeviceMapping,
    key: Array,
    frozen: Any,
    pipe: Any,
    whole: Callable[[Any], Any],
) -> Callable[[Any], dict[str, float]]:
    """A function of parameters: the loss over the held-out split, and what else the objective says of it."""
    loss = held_out_loss(experiment, source, mapping, key, frozen)

    def judge(params: Any) -> dict[str, float]:
        more = experiment.objective.judged(pipe, whole(params), source.read(source.held_out))
        return {HELD_OUT_LOSS: loss(params), **{f"heldout_{name}": value for name, value in more.items()}}

    return judge


def held_out_loss(
    experiment: Experiment, source: Source, mapping: DeviceMapping, key: Array, frozen: Any
) -> Callable[[Any], float]:
    """A function of parameters: the loss over the held-out split, with the same draws every time."""
    loss_fn = experiment.loss_fn(train=False, across=mapping.across)
    sums = mapping.compile_sums(lambda *inputs: loss_fn(*inputs)[1])
    memory = () if frozen is None else (None, frozen)
    split = source.held_out
    examples = experiment.read(source, split, mapping) if experiment.training.eval_every and split else None

    def evaluate(params: Any) -> float:
        batches = eval_batches(
            examples,
            batch_size=experiment.training.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        loss = count = 0.0
        for i, batch in enumerate(batches):
            metrics = sums(params, mapping.put_part(batch), jax.random.fold_in(key, i), *memory)
            of_batch, images = experiment.objective.loss_and_count(metrics)
            loss, count = loss + of_batch, count + images
        return float(loss / count)

    return evaluate


def whole_network(experiment: Experiment, frozen: Any) -> Callable[[Any], Any]:
    """A function of what is trained: the parameters that draw, which of adapters are more than these."""
    if not experiment.objective.adapts:
        return lambda params: params
    merge = jax.jit(experiment.objective.whole)
    return lambda params: merge(params, frozen)


def sample_grid(
    experiment: Experiment, directory: str, source: Source, pipe: Any, whole: Callable[[Any], Any]
) -> Callable[[Any, int], None]:
    """A function of parameters and step that draws images into ``samples/STEP.png``, of objectives that make any."""

    def sample(params: Any, step: int) -> None:
        path = epath.Path(directory) / "samples" / f"{step:07d}.png"
        if agreement.from_first(path.exists):
            return
        held_out = source.held_out and source.read(source.held_out)
        options = dict(num=NUM_SAMPLES, seed=experiment.seed)
        images = experiment.objective.grid(pipe, whole(params), held_out, **options)
        if images is not None and agreement.is_first():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, images)

    return sample
