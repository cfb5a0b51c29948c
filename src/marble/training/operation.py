"""Watching a run: how long steps take and must take, a profile of some of them, and whether they still come."""

import contextlib
import faulthandler
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any

import jax
from etils import epath

from marble.errors import InputError
from marble.parallel.chips import peak_flops
from marble.parallel.hlo import Module
from marble.storage import copy_files

logger = logging.getLogger(__name__)


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


def step_floor(compiled: Mapping[int, Any]) -> float | None:
    """The seconds that a step's arithmetic takes at the devices' peak; None where either is not known.

    compiled has the programs of several steps by their number; one that is compiled when it is called does not tell.
    """
    peak = peak_flops(jax.local_devices()[0].device_kind)
    num_steps, program = next(iter(compiled.items()), (1, None))
    if peak is None or not hasattr(program, "cost_analysis"):
        return None
    flops = (program.cost_analysis() or {}).get("flops")
    # XLA counts the body of a loop, over steps or micro-batches, once.
    return flops and flops * Module(program.as_text()).network_repeats() / num_steps / peak


class Profile:
    """A profile of num_steps steps after step ``start``, for TensorBoard and Perfetto, in ``WORKDIR/profile``.

    Each process has its own, in ``process-I`` where there are several.
    """

    def __init__(self, workdir: str, start: int, num_steps: int):
        self._out, self._start, self._end = epath.Path(workdir) / "profile", start, start + num_steps
        self._is_past: bool | None = None
        self._local: tempfile.TemporaryDirectory | None = None

    @classmethod
    def parse(cls, workdir: str, text: str) -> "Profile":
        """From ``START:N``; InputError for what is not that."""
        start, _, count = text.partition(":")
        if not (start.isdecimal() and count.isdecimal() and int(count)):
            raise InputError(f"--profile {text} must be START:N, a step and a number of steps: --profile 100:5")
        return cls(workdir, int(start), int(count))

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, step: int, length: int) -> None:
        """Starts before the first call that makes a step of the profile."""
        if self._is_past is None:
            self._is_past = step >= self._end
            if self._is_past:
                logger.warning("nothing is profiled: --profile ends at step %d, and this run is at %d", self._end, step)
        if self._local is None and step < self._end and step + length > self._start:
            self._local = tempfile.TemporaryDirectory(prefix="marble-profile-")
            jax.profiler.start_trace(self._local.name)

    def after(self, step: int, metrics: Any) -> None:
        """Ends after the call that makes the last one."""
        if self._local is not None and step >= self._end:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        """Writes it; first to this machine's disk, for the profiler knows no object stores."""
        if self._local is None:
            return
        jax.profiler.stop_trace()
        out = self._out / f"process-{jax.process_index()}" if jax.process_count() > 1 else self._out
        with self._local as folder:
            copy_files(Path(folder), out)
        self._local, self._end = None, 0
        logger.info(
            "wrote the profile %s: look at it with tensorboard --logdir (with tensorboard-plugin-profile)", self._out
        )


class Watchdog:
    """Says so, and where the program stands, when no step has ended for so many seconds; 0 is never."""

    def __init__(self, seconds: float, step: int, dump: Callable[[], None] | None = None):
        self._seconds, self._step = seconds, step
        self._dump = dump or (lambda: faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True))
        self._last, self._is_paused, self._ended = time.monotonic(), False, Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._last = time.monotonic()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def seen(self, step: int) -> None:
        """This step has ended."""
        self._step, self._last = step, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which no steps are expected."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused, self._last = False, time.monotonic()

    def _watch(self) -> None:
        next_report = self._seconds
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            waited = time.monotonic() - self._last
            if self._is_paused or waited < self._seconds:
                next_report = self._seconds
            elif waited >= next_report:
                next_report *= 2
                logger.error(
                    "no step has ended for %.0f s, the last one was %d: a device or another process hangs, or the data "
                    "do; where this program stands:",
                    waited,
                    self._step,
                )
                self._dump()
