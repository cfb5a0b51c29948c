"""Times, floors, profiles and the watchdog of a run."""

from marble.training.operation import Stopwatch


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
