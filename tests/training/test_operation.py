"""Times, floors, profiles and the watchdog of a run."""

import logging
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.training import operation
from marble.training.operation import Profile, Stopwatch, Watchdog, step_floor


def test_the_stopwatch_does_not_count_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("marble.training.operation.time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] = 2.0
    with watch.paused():
        now[0] = 10.0
    now[0] = 11.0
    assert watch.lap() == 3.0
    now[0] = 12.0
    assert watch.lap() == 1.0


def test_the_floor_of_a_step_is_its_arithmetic_at_the_peak(monkeypatch):
    n = 64
    product = jax.jit(jnp.dot).lower(np.zeros((n, n), np.float32), np.zeros((n, n), np.float32)).compile()
    assert step_floor({1: product}) is None  # a CPU's peak is not known
    monkeypatch.setattr(operation, "peak_flops", lambda kind: 1e9)
    assert step_floor({1: product}) == pytest.approx(2 * n**3 / 1e9, rel=0.01)
    looped = jax.jit(lambda xs: jax.lax.scan(lambda c, x: (c @ x, None), xs[0], xs)[0])
    looped = looped.lower(np.zeros((5, n, n), np.float32)).compile()
    assert step_floor({5: looped}) == pytest.approx(2 * n**3 / 1e9, rel=0.01)  # of one of five
    assert step_floor({1: lambda *_: None}) is None and step_floor({}) is None


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "3:0", "-1:3", "a:b", "1:2:3"])
def test_a_profile_needs_a_step_and_a_number(text, tmp_path):
    with pytest.raises(InputError, match=r"must be START:N"):
        Profile.parse(str(tmp_path), text)


def test_a_profile_covers_its_steps_and_lands_in_the_workdir(tmp_path, monkeypatch):
    seen = []
    start, stop = jax.profiler.start_trace, jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: seen.append("start") or start(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append("stop") or stop())
    with Profile.parse(str(tmp_path), "3:2") as profile:
        for step in range(0, 8):
            profile.before(step, 1)
            seen.append(step)
            profile.after(step + 1, jax.jit(jnp.sin)(1.0))
    assert seen == [0, 1, 2, "start", 3, 4, "stop", 5, 6, 7]
    files = [path.name for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    assert any(name.endswith(".xplane.pb") for name in files), files


def test_a_profile_that_the_run_cuts_short_is_written_all_the_same(tmp_path):
    with Profile.parse(str(tmp_path), "0:50") as profile:
        profile.before(0, 4)
        profile.after(4, jax.jit(jnp.sin)(1.0))
    assert any((tmp_path / "profile").rglob("*.xplane.pb"))


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_the_watchdog_says_where_a_step_hangs_and_says_it_again(caplog):
    dumps = []
    with (
        caplog.at_level(logging.ERROR, logger="marble"),
        Watchdog(0.2, 17, dump=lambda: dumps.append(time.monotonic())),
    ):
        wait_for(lambda: len(dumps) >= 2)
    assert dumps[1] - dumps[0] > 0.1
    assert "no step has ended for 0 s, the last one was 17" in caplog.messages[0]


def test_the_watchdog_is_silent_while_steps_come_and_in_pauses():
    dumps = []
    with Watchdog(0.4, 0, dump=lambda: dumps.append(1)) as watchdog:
        for step in range(12):
            watchdog.seen(step)
            time.sleep(0.1)
        with watchdog.paused():
            time.sleep(1.0)
    with Watchdog(0, 0, dump=lambda: dumps.append(1)):
        time.sleep(0.1)
    assert dumps == []


def test_the_watchdog_s_own_dump_is_of_all_threads():
    program = "import time\nfrom marble.training.operation import Watchdog\nwith Watchdog(0.1, 3): time.sleep(1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert 'File "<string>", line 3' in done.stderr and done.stderr.count("most recent call first") >= 2
