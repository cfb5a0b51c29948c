"""Signals."""

import os
import signal
import subprocess
import sys
import time

from marble.training.interruption import EXIT_RESTART, Interruption


def test_a_signal_sets_the_flag_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert interruption.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_while_idle_returns_and_raises_what_the_action_does():
    with Interruption() as interruption:
        assert interruption.while_idle(lambda: 3) == 3
        try:
            interruption.while_idle(lambda: 1 / 0)
        except ZeroDivisionError:
            return
    raise AssertionError("the action's error was lost")


def test_a_signal_during_a_long_compilation_ends_the_process_at_once():
    program = (
        "import time; from marble.training.interruption import Interruption\n"
        "with Interruption() as i: print('ready', flush=True); i.while_idle(lambda: time.sleep(60))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.3)
    process.terminate()
    assert process.wait(timeout=10) == EXIT_RESTART
