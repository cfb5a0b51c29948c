"""Timing of several things that do the same work, in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Ratio(NamedTuple):
    """Of the seconds of two contenders, round by round."""

    median: float
    low: float
    high: float
    """The least and the most of any round."""


class Turns(NamedTuple):
    """The seconds of each contender in each round that counts."""

    seconds: dict[str, np.ndarray]

    def median(self, name: str) -> float:
        """Seconds of a call."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, other: str) -> Ratio:
        """Of name to other. What a shared machine does to one round it does to both, and the quotient keeps."""
        quotients = self.seconds[name] / self.seconds[other]
        return Ratio(float(np.median(quotients)), float(quotients.min()), float(quotients.max()))

    def best(self, names: list[str]) -> str:
        """The quickest of these."""
        return min(names, key=self.median)


class Probe(Protocol):
    """What looks at a call that counts, outside of its time."""

    def begin(self, name: str) -> None: ...
    def end(self, name: str) -> None: ...


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    before: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    probe: Probe | None = None,
) -> Turns:
    """Times calls that return when their work is done, one after the other in each round.

    In its turn a contender is called ``before`` times, uncounted, and then timed: its own kind goes before it, as in
    training, so that neither pays for the other's spinning threads and caches. The first ``warmup`` rounds don't count.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmup + rounds):
        for name, call in calls.items():
            for _ in range(before):
                call()
            if probe is not None:
                probe.begin(name)
            began = clock()
            call()
            seconds = clock() - began
            if probe is not None:
                probe.end(name)
            if number >= warmup:
                took[name].append(seconds)
    return Turns({name: np.array(found) for name, found in took.items()})
