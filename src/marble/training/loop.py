"""The training loop: restore, then step, log, evaluate, sample and save at absolute multiples of their intervals."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from marble import checkpoint
from marble.errors import InputError, RunError
from marble.parallel import compiler_options
from marble.training.draws import TimestepSampling
from marble.training.interruption import Interrupted, Interruption
from marble.training.logging import MetricsWriter
from marble.training.state import TrainState
from marble.training.step import TrainStep
from marble.typing import Array, Batch

logger = logging.getLogger(__name__)

HELD_OUT_LOSS = "heldout_loss"
CALLS_IN_FLIGHT = 2
"""How far the host runs ahead of the devices: enough to keep them busy, little enough to stop soon."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The section ``training`` of a config. Intervals count steps; 0 is never."""

    batch_size: int
    num_steps: int
    ema_decay: float
    accumulate: int = 1
    """Micro-batches of a step: the same step, but for dropout's draws, in 1/accumulate of the memory."""
    steps_per_call: int = 1
    """Steps in one compiled call: more keep an accelerator busier."""
    timestep_sampling: TimestepSampling = "uniform"
    """How t is drawn: alike for all, evenly over a batch, or more often where the loss is large."""
    self_conditioning: bool = False
    """Whether half of the images come with the model's own estimate of x_0, as all do in sampling."""
    label_dropout: float = 0.0
    """How often a label is replaced by the null class, for models that are given labels."""
    log_every: int = 100
    eval_every: int = 0
    sample_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    deterministic: bool = False
    """Bit-equal repetition on GPUs too, where the fastest operations do not give it."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_steps", "accumulate", "steps_per_call", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"training.{name}={getattr(self, name)} must be at least 1")
        for name in ("log_every", "eval_every", "sample_every", "checkpoint_every"):
            every = getattr(self, name)
            if every < 0:
                raise InputError(f"training.{name}={every} must be 0, for never, or more")
            if every % self.steps_per_call:
                raise InputError(f"training.{name}={every} must be a multiple of steps_per_call={self.steps_per_call}")
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"training.{name}={getattr(self, name)} must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls at its intervals, beside logging and saving."""

    learning_rate: Callable[[int], float]
    """The learning rate of the update made at a step."""
    evaluate: Callable[[Any], float]
    """The held-out loss of given parameters."""
    sample: Callable[[Any, int], None]
    """Draws images with given parameters and keeps them as those of a step, unless it has them."""


def restore_or_init(workdir: str, init: Callable[[], TrainState], place: Callable[[Any], TrainState]) -> TrainState:
    """The state to go on from: the newest whole checkpoint of workdir, put on devices by ``place``; else init()."""
    if not checkpoint.saved_steps(workdir):
        return init()
    step, state, damaged = checkpoint.restore_newest(workdir, jax.eval_shape(init))
    checkpoint.set_aside(workdir, damaged)
    logger.info("going on from the checkpoint of step %d", step)
    return place(state)


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
    interruption: Interruption,
) -> TrainState:
    """Trains from state.step to config.num_steps and returns the last state, which is saved.

    run_steps(state, batches, key) is compiled here and donates its state; each item of batches is [n b ...], n as
    ``call_lengths`` says. Raises Interrupted when asked to stop, with the state saved, and RunError when the loss was
    not finite or the memory not enough.
    """
    step = int(state.step)
    lengths = list(call_lengths(step, config))
    progress = tqdm(total=config.num_steps, initial=step, unit="step", disable=None, smoothing=0.05)
    with (
        contextlib.closing(MetricsWriter(workdir, step=step)) as writer,
        checkpoint.CheckpointWriter(workdir, keep=config.keep_checkpoints) as checkpoints,
        progress,
    ):
        logger.info("compiling the training step")
        compiled, first = compile_calls(run_steps, state, batches, key, lengths, interruption)
        stopwatch, in_flight = Stopwatch(), deque()
        with interruption.deferred():
            run_hooks(step, state, config, hooks, writer, interruption)  # those that an interruption cut off
            for length, batch in zip(lengths, itertools.chain([first], batches), strict=False):
                state, metrics = compiled[length](state, batch, key)
                step += length
                progress.update(length)
                in_flight.append(metrics)
                if len(in_flight) > CALLS_IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())
                if due(step, config.log_every):
                    state = log_window(writer, step, state, config, hooks, stopwatch)
                with stopwatch.paused():
                    if step == config.num_steps or due(step, config.checkpoint_every):
                        checkpoints.save(step, checked(state))
                    run_hooks(step, state, config, hooks, writer, interruption)
                if interruption.requested:
                    if checkpoints.latest != step:
                        checkpoints.save(step, checked(state))
                    checkpoints.wait()
                    raise Interrupted(f"saved step {step}; run the same command to go on")
            checkpoints.wait()
    return state


def run_hooks(
    step: int,
    state: TrainState,
    config: TrainingConfig,
    hooks: Hooks,
    writer: MetricsWriter,
    interruption: Interruption,
) -> None:
    """Evaluates and samples where they are due and not done; what a stop cuts off is done when the run goes on."""
    if due(step, config.eval_every) or due(step, config.sample_every):
        jax.block_until_ready(state)  # programs of two threads that wait for one another's devices could lock
    if due(step, config.eval_every) and not writer.has(step, HELD_OUT_LOSS):
        finished, loss = interruption.run(lambda: hooks.evaluate(state.ema_params))
        if finished:
            writer.write(step, {HELD_OUT_LOSS: loss})
    if due(step, config.sample_every):
        interruption.run(lambda: hooks.sample(state.ema_params, step))


def due(step: int, every: int) -> bool:
    """Whether step is a positive multiple of every; 0 is never."""
    return every > 0 and step > 0 and step % every == 0


def compile_calls(
    run_steps: TrainStep,
    state: TrainState,
    batches: Iterator[Batch],
    key: Array,
    lengths: list[int],
    interruption: Interruption,
) -> tuple[dict[int, TrainStep], Batch | None]:
    """The compiled calls by their number of steps, and the first batch, which was taken to know the shapes."""
    if not lengths:
        return {}, None
    first = next(batches)
    jitted = jax.jit(run_steps, donate_argnums=0, compiler_options=compiler_options(gradients=True))

    def compile_for(length: int) -> TrainStep:
        resized = lambda x: jax.ShapeDtypeStruct((length, *x.shape[1:]), x.dtype, sharding=x.sharding)  # noqa: E731
        return jitted.lower(state, jax.tree.map(resized, first), key).compile()

    return {n: interruption.run(functools.partial(compile_for, n))[1] for n in sorted(set(lengths))}, first


def log_window(
    writer: MetricsWriter, step: int, state: TrainState, config: TrainingConfig, hooks: Hooks, stopwatch: "Stopwatch"
) -> TrainState:
    """Writes the means since the last log, and returns the state with an empty window."""
    window = jax.device_get(checked(state).window)
    seconds = stopwatch.lap() / max(1, int(window.num_steps))
    metrics = {
        "loss": float(window.loss / window.num_steps),
        **window.parts(),
        "grad_norm": float(window.grad_norm / window.num_steps),
        "learning_rate": hooks.learning_rate(step - 1),
        "step_seconds": seconds,
        "images_per_second": config.batch_size / seconds,
    }
    writer.write(step, metrics)
    logger.info("step %d: loss %.4f, %.0f images/s", step, metrics["loss"], metrics["images_per_second"])
    return state.replace(window=jax.tree.map(jnp.zeros_like, state.window))


def checked(state: TrainState) -> TrainState:
    """The state, or a RunError that names the step if a loss or gradient was not finite."""
    if state.diverged:
        raise RunError(
            f"the loss or its gradient was not finite at step {int(state.step) + 1}; the checkpoints before it "
            f"are good. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps, or look at the data"
        )
    return state


class Stopwatch:
    """Seconds of training since the last lap, without the pauses."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap; the next one begins."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        return elapsed

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        begin = time.perf_counter()
        yield
        self._start += time.perf_counter() - begin
