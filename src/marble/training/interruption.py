"""SIGTERM and Ctrl-C: asked to stop, a run saves its state first."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from threading import Thread
from types import FrameType
from typing import Any

from marble.errors import EXIT_RESTART

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop, and everything is saved."""


class Interruption:
    """While the context is open, SIGTERM and SIGINT end the process with EXIT_RESTART: there is nothing to save.

    Within ``deferred`` they only set ``requested``, for the block to save and stop; a second Ctrl-C then kills.
    """

    def __init__(self) -> None:
        self.requested = False
        self._requested_at = 0.0
        self._deferred = False

    def __enter__(self) -> "Interruption":
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block with something to save."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def run(self, action: Callable[[], Any], *, patience: float = 0.0) -> tuple[bool, Any]:
        """(True, action()), or (False, None) when a stop was requested so many seconds ago: the action is abandoned.

        With patience there are other processes that are in the action, and can't be told to leave it: this one ends,
        with EXIT_RESTART, and is missed by them. So all that is to be kept has to be saved before.

        Python handles signals between the bytecodes of the main thread, and one call of the compiler or of a compiled
        sampler can take minutes: so the action has a thread of its own.
        """
        future: Future = Future()
        Thread(target=_fulfil, args=(future, action), daemon=True).start()
        while not future.done():
            if self.requested and time.monotonic() - self._requested_at >= patience:
                break
            wait([future], timeout=0.1)
        if patience and not future.done():
            logger.warning("stopped within what other processes go on with; run the same command to go on")
            sys.stderr.flush()
            os._exit(EXIT_RESTART)
        return (True, future.result()) if future.done() else (False, None)

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._deferred:
            logger.warning("%s: nothing new to save; run the same command to go on", name)
            sys.stderr.flush()
            os._exit(EXIT_RESTART)  # threads of compilers and readers can't be stopped otherwise
        if self.requested and number == signal.SIGTERM:
            return  # a host that shuts down may send it to a launcher, which hands it on, and to us
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self._requested_at = True, time.monotonic()
        logger.warning("%s: saving, then stopping", name)


def _fulfil(future: Future, action: Callable[[], Any]) -> None:
    try:
        future.set_result(action())
    except BaseException as error:  # handed to the caller of ``run``, whatever it is
        future.set_exception(error)
