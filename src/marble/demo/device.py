"""One call of the pipeline at a time, in a thread, followed while it runs, and ended when nobody follows."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from marble.pipelines.progress import OnStep, Progress

T = TypeVar("T")
BEAT = 0.5
"""Seconds without a step after which whoever follows is told that it is still going on."""


class Abandoned(Exception):
    """Nobody follows any more."""


class Waiting(NamedTuple):
    """No step since the last event."""

    seconds: float
    """Since the call was asked for."""
    has_begun: bool
    """Or another call has the device."""


class Done(NamedTuple, Generic[T]):
    """The call's result, the last event."""

    result: T
    seconds: float


class Device:
    """What calls wait for."""

    def __init__(self, patience: float) -> None:
        """patience: seconds after which a call that nobody has asked about is ended at its next step."""
        self._patience, self._lock = patience, threading.Lock()

    def follow(self, call: Callable[[OnStep], T], every: int = 1) -> Iterator[Progress | Waiting | Done[T]]:
        """Runs call(on_step) when the device is free; yields each step it makes, and Done.

        Raises what the call raises. When the iterator is closed, or left alone, the call ends at its next step.
        """
        run = _Run(call, every, self._lock, self._patience)
        try:
            yield from run.events()
        finally:
            run.leave()


class _Run:
    def __init__(self, call: Callable[[OnStep], Any], every: int, lock: Any, patience: float) -> None:
        self._call, self._every, self._lock, self._patience = call, every, lock, patience
        self._events: queue.SimpleQueue[Progress | Done | BaseException] = queue.SimpleQueue()
        self._asked = self._seen = time.monotonic()
        self._begun: float | None = None
        self._left = False
        threading.Thread(target=self._run, name="marble demo", daemon=True).start()

    def events(self) -> Iterator[Any]:
        while True:
            self._seen = time.monotonic()
            try:
                event = self._events.get(timeout=BEAT)
            except queue.Empty:
                event = Waiting(time.monotonic() - self._asked, self._begun is not None)
            if isinstance(event, BaseException):
                raise event
            self._seen = time.monotonic()
            yield event
            if isinstance(event, Done):
                return

    def leave(self) -> None:
        self._left = True

    def _run(self) -> None:
        with self._lock:
            self._begun = time.monotonic()
            try:
                self._unless_left()
                result = self._call(OnStep(self._told, self._every))
                self._events.put(Done(result, time.monotonic() - self._begun))
            except BaseException as error:  # any at all is raised where the call was asked for
                self._events.put(error)

    def _told(self, progress: Progress) -> None:
        self._unless_left()
        self._events.put(progress)

    def _unless_left(self) -> None:
        if self._left or time.monotonic() - self._seen > self._patience:
            raise Abandoned("nobody follows the drawing")
