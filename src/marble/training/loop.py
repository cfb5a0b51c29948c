"""The training loop: restore, then step; what is done beside the steps is in ``intervals``."""

import contextlib
import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm

from marble import checkpoint
from marble.parallel import DeviceMapping, agreement
from marble.training import intervals
from marble.training.config import EvaluationConfig, TrainingConfig
from marble.training.interruption import Interruption
from marble.training.intervals import Hooks
from marble.training.operation import Profile, Watchdog, step_floor
from marble.training.state import TrainState
from marble.training.step import TrainStep
from marble.typing import Array, Batch

logger = logging.getLogger(__name__)

CALLS_IN_FLIGHT = 2
"""How far the host runs ahead of the devices: enough to keep them busy, little enough to stop soon."""


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
    evaluation: EvaluationConfig,
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
    watchdog, options = Watchdog(hang_seconds, step), dict(config=config, evaluation=evaluation, hooks=hooks)
    with (
        intervals.opened(workdir, step, interruption=interruption, watchdog=watchdog, **options) as beside,
        progress_bar(step, config) as progress,
    ):
        logger.info("compiling the training step")
        compiled, first = compile_calls(run_steps, state, batches, key, lengths, mapping, interruption)
        to_stop, calls = agreement.StopVote(), Calls(compiled, key, step, watchdog, profile)
        with interruption.deferred(), watchdog, profile or contextlib.nullcontext():
            beside.begin(step, state, floor=step_floor(compiled))
            for length, batch in zip(lengths, itertools.chain([first], batches), strict=False):
                state = calls.make(length, state, batch)
                step += length
                progress.update(length)
                state = beside.after(step, state)
                if to_stop(interruption.requested):
                    beside.stop(step, state)
            beside.wait()
            hooks.finish(state.ema_params)
    return state


def progress_bar(step: int, config: TrainingConfig) -> tqdm:
    """Of a run that goes on from step."""
    disable = None if agreement.is_first() else True
    return tqdm(total=config.num_steps, initial=step, unit="step", disable=disable, smoothing=0.05)


class Calls:
    """The compiled calls of a run, made in turn; the host runs ahead of the devices by CALLS_IN_FLIGHT of them."""

    def __init__(
        self, compiled: Mapping[int, TrainStep], key: Array, step: int, watchdog: Watchdog, profile: Profile | None
    ) -> None:
        """compiled has them by their number of steps; the first begins at step."""
        self._compiled, self._key, self._step, self._watchdog, self._profile = compiled, key, step, watchdog, profile
        self._in_flight: deque[Any] = deque()

    def make(self, length: int, state: TrainState, batch: Batch) -> TrainState:
        """The state after a call of length steps, which may not have ended; the state that is given is gone."""
        if self._profile:
            self._profile.before(self._step, length)
        state, metrics = self._compiled[length](state, batch, self._key)
        self._step += length
        self._in_flight.append(metrics)
        if len(self._in_flight) > CALLS_IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())
            self._watchdog.seen(self._step - CALLS_IN_FLIGHT * length)
        if self._profile:
            self._profile.after(self._step, metrics)
        return state


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
