"""The training loop: restore, then step, log, evaluate, sample and save at absolute multiples of their intervals."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from marble import checkpoint
from marble.errors import InputError
from marble.parallel import DeviceMapping, agreement, fetch
from marble.training.divergence import Divergence
from marble.training.interruption import Interrupted, Interruption
from marble.training.logging import Writer, open_writer
from marble.training.operation import Profile, Stopwatch, Watchdog, step_floor
from marble.training.post_hoc_ema import Snapshots
from marble.training.state import TrainState, Window
from marble.training.step import TrainStep
from marble.typing import Array, Batch

logger = logging.getLogger(__name__)

HELD_OUT_LOSS = "heldout_loss"
CALLS_IN_FLIGHT = 2
"""How far the host runs ahead of the devices: enough to keep them busy, little enough to stop soon."""
HOOK_PATIENCE = 15.0
"""Seconds that a process which is asked to stop leaves a hook: several processes can't leave one at the same place."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The section ``training`` of a config. Intervals count steps; 0 is never."""

    batch_size: int
    num_steps: int
    ema_decay: float
    ema_warmup: bool = True
    """Whether the moving average begins as one over few steps, see ``marble.training.ema``; not so in the reference."""
    post_hoc_ema: bool = False
    """Whether averages are stored from which those of any length can be made: see ``marble.training.post_hoc_ema``."""
    ema_snapshot_every: int = 1000
    """How often they are stored; at the end of the training in any case."""
    accumulate: int = 1
    """Micro-batches of a step: the same step, but for dropout's draws, in 1/accumulate of the memory."""
    steps_per_call: int = 1
    """Steps in one compiled call: more keep an accelerator busier."""
    log_every: int = 100
    eval_every: int = 0
    sample_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    keep_every_hours: float | None = None
    """Of the older ones, one of each so many hours stays too."""
    deterministic: bool = False
    """Bit-equal repetition on GPUs too, where the fastest operations do not give it."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "num_steps", "accumulate", "steps_per_call", "keep_checkpoints", "ema_snapshot_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"training.{name}={getattr(self, name)} must be at least 1")
        of_averages = ["ema_snapshot_every"] if self.post_hoc_ema else []
        for name in ("log_every", "eval_every", "sample_every", "checkpoint_every", *of_averages):
            every = getattr(self, name)
            if every < 0:
                raise InputError(f"training.{name}={every} must be 0, for never, or more")
            if every % self.steps_per_call:
                raise InputError(f"training.{name}={every} must be a multiple of steps_per_call={self.steps_per_call}")
        if self.keep_every_hours is not None and self.keep_every_hours <= 0:
            raise InputError(f"training.keep_every_hours={self.keep_every_hours} must be above 0, or None for none")
        if not 0 <= self.ema_decay <= 1:
            raise InputError(f"training.ema_decay={self.ema_decay} must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls at its intervals, beside logging and saving."""

    learning_rate: Callable[[int], float]
    """The learning rate of the update made at a step."""
    evaluate: Callable[[Any], float]
    """The held-out loss of given parameters."""
    sample: Callable[[Any, int], None]
    """Draws images with given parameters and keeps them as those of a step, unless it has them."""
    log: Callable[[Window], dict[str, float]]
    """What the log says of the sums of a window beside the means of loss and gradient."""


def restore_or_init(workdir: str, init: Callable[[], TrainState], mapping: DeviceMapping) -> TrainState:
    """The state to go on from, on the devices: the newest whole checkpoint of workdir, or else init().

    The first process alone reads it, and tells the others: which one is whole is decided once.
    """
    shapes, found = jax.eval_shape(init), None

    def restored_step() -> int | None:
        nonlocal found
        if not checkpoint.saved_steps(workdir):
            return None
        step, found, damaged = checkpoint.restore_newest(workdir, shapes)
        checkpoint.set_aside(workdir, damaged)
        logger.info("going on from the checkpoint of step %d", step)
        return step

    if agreement.from_first(restored_step) is None:
        return mapping.init(init)
    return mapping.place(agreement.arrays_from_first(found, shapes))


def call_lengths(step: int, config: TrainingConfig) -> Iterator[int]:
    """How many steps each compiled call makes from step on: calls end at absolute multiples of steps_per_call.

    So a run that was interrupted makes the same calls as one that was not.
    """
    while step < config.num_steps:
        length = min(config.steps_per_call - step % config.steps_per_call, config.num_steps - step)
        yield length
        step += length


def train(
    *,
    workdir: str,
    config: TrainingConfig,
    state: TrainState,
    run_steps: TrainStep,
    batches: Iterator[Batch],
    key: Array,
    hooks: Hooks,
    mapping: DeviceMapping,
    interruption: Interruption,
    profile: Profile | None = None,
    hang_seconds: float = 0.0,
) -> TrainState:
    """Trains from state.step to config.num_steps and returns the last state, which is saved.

    run_steps(state, batches, key) is compiled here and donates its state; each item of batches is [n b ...], n as
    ``call_lengths`` says. Raises Interrupted when this or another process was asked to stop, with the state saved, and
    RunError when the loss was not finite or the memory not enough. After hang_seconds without a step the log tells.
    """
    step = int(state.step)
    lengths = list(call_lengths(step, config))
    progress = tqdm(
        total=config.num_steps,
        initial=step,
        unit="step",
        disable=None if agreement.is_first() else True,
        smoothing=0.05,
    )
    keep = dict(keep=config.keep_checkpoints, keep_every_hours=config.keep_every_hours)
    with (
        contextlib.closing(open_writer(workdir, step=step)) as writer,
        checkpoint.CheckpointWriter(workdir, **keep) as checkpoints,
        contextlib.closing(Snapshots(workdir, step, config.ema_snapshot_every, config.num_steps)) as snapshots,
        progress,
    ):
        diverged = Divergence(workdir, checkpoints)
        logger.info("compiling the training step")
        compiled, first = compile_calls(run_steps, state, batches, key, lengths, mapping, interruption)
        floor = step_floor(compiled)
        stopwatch, in_flight, to_stop = Stopwatch(), deque(), agreement.StopVote()
        with interruption.deferred(), Watchdog(hang_seconds, step) as watchdog, profile or contextlib.nullcontext():
            # Those that an interruption cut off.
            if state.power_averages and snapshots.is_due(step):
                snapshots.save(step, state.power_averages)
            run_hooks(step, state, config, hooks, writer, interruption, watchdog, diverged)
            for length, batch in zip(lengths, itertools.chain([first], batches), strict=False):
                if profile:
                    profile.before(step, length)
                state, metrics = compiled[length](state, batch, key)
                step += length
                progress.update(length)
                in_flight.append(metrics)
                if len(in_flight) > CALLS_IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())
                    watchdog.seen(step - CALLS_IN_FLIGHT * length)
                if profile:
                    profile.after(step, metrics)
                if due(step, config.log_every):
                    state = log_window(writer, step, diverged.checked(state), config, hooks, stopwatch, floor)
                with stopwatch.paused():
                    if step == config.num_steps or is_save_due(step, config):
                        checkpoints.save(step, diverged.checked(state).without_frozen())
                    if state.power_averages and snapshots.is_due(step):
                        snapshots.save(step, diverged.checked(state).power_averages)
                    if jax.process_count() > 1 and is_hook_due(step, config):
                        checkpoints.wait()  # a stop within a hook ends the process
                    run_hooks(step, state, config, hooks, writer, interruption, watchdog, diverged)
                if to_stop(interruption.requested):
                    if checkpoints.latest != step:
                        checkpoints.save(step, diverged.checked(state).without_frozen())
                    checkpoints.wait()
                    snapshots.wait()
                    agreement.wait_for_all("saved")
                    raise Interrupted(f"saved step {step}; run the same command to go on")
            checkpoints.wait()
            snapshots.wait()
    return state


def is_save_due(step: int, config: TrainingConfig) -> bool:
    """Whether to save at step: with several processes also before a hook, which they can't cut off together."""
    return due(step, config.checkpoint_every) or (is_hook_due(step, config) and jax.process_count() > 1)


def is_hook_due(step: int, config: TrainingConfig) -> bool:
    """Whether to evaluate or to sample at step."""
    return due(step, config.eval_every) or due(step, config.sample_every)


def run_hooks(
    step: int,
    state: TrainState,
    config: TrainingConfig,
    hooks: Hooks,
    writer: Writer,
    interruption: Interruption,
    watchdog: Watchdog,
    diverged: Divergence,
) -> None:
    """Evaluates and samples where they are due and not done; what a stop cuts off is done when the run goes on.

    RunError for a held-out loss that is not finite.
    """
    if is_hook_due(step, config):
        jax.block_until_ready(state)  # programs of two threads that wait for one another's devices could lock
    patience = HOOK_PATIENCE if jax.process_count() > 1 else 0.0
    with watchdog.paused():
        if due(step, config.eval_every) and not agreement.from_first(lambda: writer.has(step, HELD_OUT_LOSS)):
            finished, loss = interruption.run(lambda: hooks.evaluate(state.ema_params), patience=patience)
            if finished:
                writer.write(step, {HELD_OUT_LOSS: loss})
                diverged.check_held_out(step, loss)
        if due(step, config.sample_every):
            interruption.run(lambda: hooks.sample(state.ema_params, step), patience=patience)


def due(step: int, every: int) -> bool:
    """Whether step is a positive multiple of every; 0 is never."""
    return every > 0 and step > 0 and step % every == 0


def compile_calls(
    run_steps: TrainStep,
    state: TrainState,
    batches: Iterator[Batch],
    key: Array,
    lengths: list[int],
    mapping: DeviceMapping,
    interruption: Interruption,
) -> tuple[dict[int, TrainStep], Batch | None]:
    """The compiled calls by their number of steps, and the first batch, which was taken to know the shapes."""
    if not lengths:
        return {}, None
    first = next(batches)

    def compile_for(length: int) -> TrainStep:
        resized = lambda x: jax.ShapeDtypeStruct((length, *x.shape[1:]), x.dtype, sharding=x.sharding)  # noqa: E731
        return mapping.compile_step(run_steps, state, jax.tree.map(resized, first), key)

    return {n: interruption.run(functools.partial(compile_for, n))[1] for n in sorted(set(lengths))}, first


def log_window(
    writer: Writer,
    step: int,
    state: TrainState,
    config: TrainingConfig,
    hooks: Hooks,
    stopwatch: Stopwatch,
    floor: float | None,
) -> TrainState:
    """Writes the means since the last log, and returns the state with an empty window.

    floor is the least time of a step, all of its arithmetic at the devices' peak.
    """
    window = fetch(state.window)
    seconds = stopwatch.lap() / max(1, int(window["num_steps"]))
    metrics = {
        "loss": float(window["loss"] / window["num_steps"]),
        **hooks.log(window),
        "grad_norm": float(window["grad_norm"] / window["num_steps"]),
        "learning_rate": hooks.learning_rate(step - 1),
        "step_seconds": seconds,
        "images_per_second": config.batch_size / seconds,
        **({"step_seconds_floor": floor, "share_of_peak": floor / seconds} if floor else {}),
    }
    writer.write(step, metrics)
    if agreement.is_first():
        at_peak = f", {seconds:.4f} s a step of at least {floor:.4f} s ({floor / seconds:.1%} of peak)" if floor else ""
        logger.info("step %d: loss %.4f, %.0f images/s%s", step, metrics["loss"], config.batch_size / seconds, at_peak)
    return state.replace(window=jax.tree.map(jnp.zeros_like, state.window))
