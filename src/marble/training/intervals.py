"""What a run does beside its steps, at absolute multiples of intervals: log, save, evaluate, sample, measure."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from marble import checkpoint
from marble.parallel import agreement, fetch
from marble.training.config import EvaluationConfig, TrainingConfig
from marble.training.divergence import Divergence
from marble.training.interruption import Interrupted, Interruption
from marble.training.logging import Writer, open_writer
from marble.training.measuring import Measured, Measurements
from marble.training.operation import Stopwatch, Watchdog
from marble.training.post_hoc_ema import Snapshots
from marble.training.state import TrainState, Window

logger = logging.getLogger(__name__)

HELD_OUT_LOSS, MEASURE_SECONDS = "heldout_loss", "measure_seconds"
HOOK_PATIENCE = 15.0
"""Seconds that a process which is asked to stop leaves a hook: several processes can't leave one at the same place."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What is called at intervals, beside logging and saving."""

    learning_rate: Callable[[int], float]
    """The learning rate of the update made at a step."""
    evaluate: Callable[[Any], Mapping[str, float]]
    """What the log says of held-out examples, of given parameters: HELD_OUT_LOSS and more."""
    sample: Callable[[Any, int], None]
    """Draws images with given parameters and keeps them as those of a step, unless it has them."""
    measure: Callable[[Any, int], Sequence[Measured]]
    """What samples of given parameters are like, at a step."""
    log: Callable[[Window], dict[str, float]]
    """What the log says of the sums of a window beside the means of loss and gradient."""
    finish: Callable[[Any], None] = lambda params: None
    """Called once all steps are made and saved, with the parameters that are averaged."""


@dataclasses.dataclass
class Intervals:
    """The files of a run, and what is written to them."""

    config: TrainingConfig
    evaluation: EvaluationConfig
    hooks: Hooks
    writer: Writer
    checkpoints: checkpoint.CheckpointWriter
    snapshots: Snapshots
    measurements: Measurements
    diverged: Divergence
    interruption: Interruption
    watchdog: Watchdog
    stopwatch: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    floor: float | None = None

    def begin(self, step: int, state: TrainState, *, floor: float | None) -> None:
        """What an interruption cut off at the step that a run goes on from; the steps begin after that.

        floor is the least time of a step, all of its arithmetic at the devices' peak.
        """
        self.floor = floor
        self._save_averages(step, state)
        self._call_hooks(step, state)
        self.stopwatch.lap()

    def after(self, step: int, state: TrainState) -> TrainState:
        """What is due after a step; the state comes back with an empty window where it was logged.

        RunError for a loss, gradient or held-out loss that is not finite.
        """
        if due(step, self.config.log_every):
            state = self._log(step, self.diverged.checked(state))
        with self.stopwatch.paused():
            if step == self.config.num_steps or self._is_save_due(step):
                self._save(step, state)
            self._save_averages(step, state)
            if jax.process_count() > 1 and self._is_hook_due(step):
                self.checkpoints.wait()  # a stop within a hook ends the process
            self._call_hooks(step, state)
        return state

    def stop(self, step: int, state: TrainState) -> NoReturn:
        """Saves what is not saved, and raises Interrupted."""
        if self.checkpoints.latest != step:
            self._save(step, state)
        self.wait()
        agreement.wait_for_all("saved")
        raise Interrupted(f"saved step {step}; run the same command to go on")

    def wait(self) -> None:
        """Returns when all is on the disk."""
        self.checkpoints.wait()
        self.snapshots.wait()

    def _is_hook_due(self, step: int) -> bool:
        every = (self.config.eval_every, self.config.sample_every, self.evaluation.every)
        return any(due(step, interval) for interval in every)

    def _is_save_due(self, step: int) -> bool:
        """Of what is measured a checkpoint may be kept; and several processes can't cut off a hook together."""
        before_hook = due(step, self.evaluation.every) or (self._is_hook_due(step) and jax.process_count() > 1)
        return due(step, self.config.checkpoint_every) or before_hook

    def _save(self, step: int, state: TrainState) -> None:
        self.checkpoints.save(step, self.diverged.checked(state).without_frozen())

    def _save_averages(self, step: int, state: TrainState) -> None:
        if state.power_averages and self.snapshots.is_due(step):
            self.snapshots.save(step, self.diverged.checked(state).power_averages)

    def _log(self, step: int, state: TrainState) -> TrainState:
        """Writes the means since the last log, and returns the state with an empty window."""
        window, floor = fetch(state.window), self.floor
        seconds = self.stopwatch.lap() / max(1, int(window["num_steps"]))
        images = self.config.batch_size / seconds
        loss = float(window["loss"] / window["num_steps"])
        metrics = {
            "loss": loss,
            **self.hooks.log(window),
            "grad_norm": float(window["grad_norm"] / window["num_steps"]),
            "learning_rate": self.hooks.learning_rate(step - 1),
            "step_seconds": seconds,
            "images_per_second": images,
            **({"step_seconds_floor": floor, "share_of_peak": floor / seconds} if floor else {}),
        }
        self.writer.write(step, metrics)
        if agreement.is_first():
            at = f", {seconds:.4f} s a step of at least {floor:.4f} s ({floor / seconds:.1%} of peak)" if floor else ""
            logger.info("step %d: loss %.4f, %.0f images/s%s", step, loss, images, at)
        return state.replace(window=jax.tree.map(jnp.zeros_like, state.window))

    def _call_hooks(self, step: int, state: TrainState) -> None:
        """Calls those that are due and not done; what a stop cuts off is done when the run goes on."""
        if not self._is_hook_due(step):
            return
        jax.block_until_ready(state)  # programs of two threads that wait for one another's devices could lock
        with self.watchdog.paused():
            if due(step, self.config.eval_every) and not self._has(step, HELD_OUT_LOSS):
                finished, found = self._run(lambda: self.hooks.evaluate(state.ema_params))
                if finished:
                    self.writer.write(step, found)
                    self.diverged.check_held_out(step, found[HELD_OUT_LOSS])
            if due(step, self.config.sample_every):
                self._run(lambda: self.hooks.sample(state.ema_params, step))
            if due(step, self.evaluation.every) and not self._has(step, MEASURE_SECONDS):
                began = time.perf_counter()
                finished, found = self._run(lambda: self.hooks.measure(state.ema_params, step))
                if finished:
                    self._keep(step, found, time.perf_counter() - began)

    def _keep(self, step: int, found: Sequence[Measured], seconds: float) -> None:
        """Writes what was measured, to metrics.jsonl last: what is there is done."""
        self.checkpoints.wait()
        is_kept = agreement.from_first(lambda: self.measurements.keep(step, found))
        numbers = {number.name: number.value for number in found}
        self.writer.write(step, {**numbers, MEASURE_SECONDS: seconds})
        if agreement.is_first():
            said = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            logger.info("step %d: %s%s", step, said, "; kept among the best" if is_kept else "")

    def _has(self, step: int, name: str) -> bool:
        return agreement.from_first(lambda: self.writer.has(step, name))

    def _run(self, action: Callable[[], Any]) -> tuple[bool, Any]:
        return self.interruption.run(action, patience=HOOK_PATIENCE if jax.process_count() > 1 else 0.0)


@contextlib.contextmanager
def opened(
    workdir: str,
    step: int,
    *,
    config: TrainingConfig,
    evaluation: EvaluationConfig,
    hooks: Hooks,
    interruption: Interruption,
    watchdog: Watchdog,
) -> Iterator[Intervals]:
    """A block in which the files of a run are open that goes on from step; at its end the last save is waited for."""
    keep = dict(keep=config.keep_checkpoints, keep_every_hours=config.keep_every_hours)
    with (
        contextlib.closing(open_writer(workdir, step=step)) as writer,
        checkpoint.CheckpointWriter(workdir, **keep) as checkpoints,
        contextlib.closing(Snapshots(workdir, step, config.ema_snapshot_every, config.num_steps)) as snapshots,
    ):
        yield Intervals(
            config=config,
            evaluation=evaluation,
            hooks=hooks,
            writer=writer,
            checkpoints=checkpoints,
            snapshots=snapshots,
            measurements=Measurements(workdir, step, evaluation),
            diverged=Divergence(workdir, checkpoints),
            interruption=interruption,
            watchdog=watchdog,
        )


def due(step: int, every: int) -> bool:
    """Whether step is a positive multiple of every; 0 is never."""
    return every > 0 and step > 0 and step % every == 0
