"""Turns, by a clock that the contenders move."""

import numpy as np
import pytest

from benchmarks.timing import Turns, in_turns


class Clock:
    """Each call takes what its contender's list says next."""

    def __init__(self, **lengths):
        self.now, self.calls, self.lengths = 0.0, [], {name: iter(found) for name, found in lengths.items()}

    def call(self, name):
        def run():
            self.calls.append(name)
            self.now += next(self.lengths[name])

        return run

    def __call__(self):
        return self.now


def test_turns_are_taken_one_after_the_other_and_the_last_call_of_each_is_timed():
    clock = Clock(a=[9, 9, 9, 1, 9, 3, 9, 2], b=[9, 9, 9, 4, 9, 6, 9, 8])
    turns = in_turns({"a": clock.call("a"), "b": clock.call("b")}, rounds=3, clock=clock)
    assert clock.calls == ["a", "a", "b", "b"] * 4
    assert {name: list(found) for name, found in turns.seconds.items()} == {"a": [1, 3, 2], "b": [4, 6, 8]}
    assert turns.median("a") == 2 and turns.median("b") == 6


def test_without_a_call_before_and_with_two_rounds_of_warm_up():
    clock = Clock(a=[7, 7, 1, 2], b=[7, 7, 3, 4])
    turns = in_turns({"a": clock.call("a"), "b": clock.call("b")}, rounds=2, warmup=2, before=0, clock=clock)
    assert clock.calls == ["a", "b"] * 4
    assert list(turns.seconds["a"]) == [1, 2] and list(turns.seconds["b"]) == [3, 4]


def test_ratios_are_of_pairs_and_not_of_medians():
    """A machine twice as slow in a round moves both sides of the pair: the ratio stays, that of the medians doesn't."""
    turns = Turns({"ours": np.array([1.0, 10.0, 3.0]), "theirs": np.array([2.0, 20.0, 60.0])})
    ratio = turns.ratio("ours", "theirs")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.05, 0.5)
    assert turns.median("ours") / turns.median("theirs") == pytest.approx(0.15)
    back = turns.ratio("theirs", "ours")
    assert (back.median, back.low, back.high) == (2, 2, 20)


def test_the_best_is_the_quickest_by_its_median():
    turns = Turns({"eager": np.array([1.0, 5.0, 5.0]), "compile": np.array([4.0, 4.0, 99.0])})
    assert turns.best(["eager", "compile"]) == "compile"


def test_a_probe_sees_the_calls_that_are_timed_and_its_time_is_not_counted():
    clock, seen = Clock(a=[9, 1, 9, 1]), []

    class Probe:
        def begin(self, name):
            clock.now += 100
            seen.append((name, len(clock.calls)))

        def end(self, name):
            clock.now += 100

    turns = in_turns({"a": clock.call("a")}, rounds=1, clock=clock, probe=Probe())
    assert seen == [("a", 1), ("a", 3)] and list(turns.seconds["a"]) == [1]
