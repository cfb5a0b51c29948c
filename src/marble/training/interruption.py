"""SIGTERM and Ctrl-C: asked to stop, a run saves its state first."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

EXIT_RESTART = 75
"""The exit status of a run that was asked to stop and saved: the same command goes on (EX_TEMPFAIL of sysexits.h)."""


class Interrupted(Exception):
    """The run was asked to stop, and everything is saved."""


class Interruption:
    """While the context is open, ``requested`` turns True at the first SIGTERM or SIGINT; a second one kills."""

    def __init__(self) -> None:
        self.requested = False
        self._idle = False

    def __enter__(self) -> "Interruption":
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def while_idle(self, action: Callable[[], Any]) -> Any:
        """action(), during which there is nothing to save, so that a signal ends the process at once.

        Compilation can take minutes, and Python handles signals between bytecodes of the main thread: so the action
        has a thread of its own.
        """
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(action)
            self._idle = True
            try:
                return future.result()
            finally:
                self._idle = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            signal.default_int_handler(number, _)
        self.requested = True
        logger.warning("%s: saving, then stopping", signal.Signals(number).name)
        if self._idle:
            logger.warning("nothing new to save; run the same command to go on")
            sys.stderr.flush()
            os._exit(EXIT_RESTART)  # the compiler's thread can't be stopped otherwise
