"""Signals."""

import os
import signal
import subprocess
import sys
import time
from threading import Thread, Timer

import pytest

from marble.errors import EXIT_RESTART
from marble.training.interruption import Interrupted, Interruption


def test_a_signal_sets_the_flag_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption, interruption.deferred():
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert interruption.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_returns_and_raises_what_the_action_does():
    interruption = Interruption()
    assert interruption.run(lambda: 3) == (True, 3)
    with pytest.raises(ZeroDivisionError):
        interruption.run(lambda: 1 / 0)


def test_what_takes_long_is_abandoned_when_a_stop_is_requested():
    with Interruption() as interruption, interruption.deferred():
        Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        assert interruption.run(lambda: time.sleep(30)) == (False, None)
        assert time.monotonic() - began < 5


def test_patience_is_counted_from_the_request_on():
    with Interruption() as interruption, interruption.deferred():
        Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        assert interruption.run(lambda: time.sleep(0.6), patience=30) == (True, None)
        assert interruption.run(lambda: "short", patience=30) == (True, "short")
        assert time.monotonic() - began < 5


def test_a_second_ctrl_c_ends_a_deferred_block_and_a_second_sigterm_does_not():
    seen = []
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption, interruption.deferred():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            seen.append(number)
    assert seen == [signal.SIGTERM, signal.SIGTERM]


def test_a_process_that_is_not_ours_is_left_to_itself():
    with Interruption(ends_process=False) as interruption:
        with pytest.raises(KeyboardInterrupt):
            Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            interruption.run(lambda: time.sleep(30))
        with interruption.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert interruption.requested
            with pytest.raises(Interrupted, match="end this one"):
                interruption.run(lambda: time.sleep(30), patience=0.1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("before", ["signal.SIG_DFL", "signal.SIG_IGN", "lambda *_: print('handled', flush=True)"])
def test_sigterm_with_nothing_to_save_does_what_it_did_before(before):
    program = (
        "import os, signal; from marble.training.interruption import Interruption\n"
        f"signal.signal(signal.SIGTERM, {before})\n"
        "with Interruption(ends_process=False): os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expected = {
        "signal.SIG_DFL": (-signal.SIGTERM, ""),
        "signal.SIG_IGN": (0, "goes on\n"),
    }.get(before, (0, "handled\ngoes on\n"))
    assert (done.returncode, done.stdout) == expected


def test_in_a_thread_signals_stay_as_they_are():
    def run():
        with Interruption() as interruption, interruption.deferred():
            handlers.append(signal.getsignal(signal.SIGTERM))
            found.append(interruption.run(lambda: 3))

    before, handlers, found = signal.getsignal(signal.SIGTERM), [], []
    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before] and found == [(True, 3)]


def test_a_signal_during_a_long_compilation_ends_the_process_at_once():
    program = (
        "import time; from marble.training.interruption import Interruption\n"
        "with Interruption() as i: print('ready', flush=True); i.run(lambda: time.sleep(60))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.3)
    process.terminate()
    assert process.wait(timeout=10) == EXIT_RESTART
