"""SIGTERM and Ctrl-C: asked to stop, a run saves its state first."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import Any

from marble.errors import EXIT_RESTART

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop, and everything is saved."""


class Interruption:
    """While the context is open, SIGTERM and SIGINT end the process with EXIT_RESTART: there is nothing to save.

    Within ``deferred`` they only set ``requested``, for the block to save and stop; a second Ctrl-C then kills.
    A process that is not ours to end, such as a notebook's, is left to itself: with ends_process False a signal with
    nothing to save does what it did before. Python handles signals in its main thread; in another nothing is changed.
    """

    def __init__(self, *, ends_process: bool = True) -> None:
        self.requested, self.ends_process = False, ends_process
        self._requested_at = 0.0
        self._deferred = False

    def __enter__(self) -> "Interruption":
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT) if is_main}
        if not is_main:
            logger.info("in a thread: SIGTERM and Ctrl-C do what they do in this program, and save nothing")
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._before:
            self._restore(number)

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
        with EXIT_RESTART, and is missed by them. So all that is to be kept has to be saved before. Where the process is
        not ours to end, Interrupted is raised.

        Python handles signals between the bytecodes of the main thread, and one call of the compiler or of a compiled
        sampler can take minutes: so the action has a thread of its own.
        """
        future: Future = Future()
        threading.Thread(target=_fulfil, args=(future, action), daemon=True).start()
        while not future.done():
            if self.requested and time.monotonic() - self._requested_at >= patience:
                break
            wait([future], timeout=0.1)
        if patience and not future.done():
            if not self.ends_process:
                raise Interrupted("stopped within what other processes go on with: end this one, and they miss it")
            logger.warning("stopped within what other processes go on with; run the same command to go on")
            sys.stderr.flush()
            os._exit(EXIT_RESTART)
        return (True, future.result()) if future.done() else (False, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._deferred and not self.ends_process:
            return self._hand_on(number, frame)
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

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """What the signal did before: that of Ctrl-C is to raise KeyboardInterrupt."""
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            self._restore(number)
            os.kill(os.getpid(), number)

    def _restore(self, number: int) -> None:
        """Sets what handled a signal before; of a handler that is not Python's, Python knows nothing."""
        before = self._before[number]
        signal.signal(number, signal.SIG_DFL if before is None else before)


def _fulfil(future: Future, action: Callable[[], Any]) -> None:
    try:
        future.set_result(action())
    except BaseException as error:  # handed to the caller of ``run``, whatever it is
        future.set_exception(error)
