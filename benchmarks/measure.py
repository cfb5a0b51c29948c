"""Contenders timed in turns, and what is told of each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import memory
from benchmarks.report import Report
from benchmarks.timing import Turns, in_turns

MIB = 2**20
OURS = "marble"


class Contender(NamedTuple):
    """Something that does the work of one row."""

    name: str
    call: Callable[[], Any]
    """Returns when it is done."""
    parameters: int
    compiled: Any = None
    """Our program."""
    is_same: bool = True
    """Whether its network is ours, so that the operations are as many."""


class Bar(NamedTuple):
    """The most that our time may be, as a share of that of the best of a library's ways."""

    library: str
    share: float


def compare(
    report: Report,
    setting: dict[str, Any],
    contenders: Sequence[Contender],
    *,
    images: int,
    rounds: int,
    flops: float | None,
    peak: float | None,
    warmup: int = 1,
    before: int = 1,
) -> Turns:
    """Times them, and tells a row of each, of what images of a call and operations of ours say; peak is in FLOP/s."""
    probe = memory.PeakMemory()
    calls = {contender.name: contender.call for contender in contenders}
    turns = in_turns(calls, rounds=rounds, warmup=warmup, before=before, probe=probe)
    for one in contenders:
        seconds = turns.median(one.name)
        speed = flops / seconds if flops and one.is_same else None
        ratio = turns.ratio(OURS, one.name) if one.name != OURS else None
        needs = memory.program_bytes(one.compiled) if one.compiled is not None else None
        report.row(
            "In turns",
            **setting,
            whose=one.name,
            parameters=one.parameters,
            ms=1000 * seconds,
            images_per_second=images / seconds,
            gflops=speed and speed / 1e9,
            share_of_matrix_peak=speed and peak and speed / peak,
            program_mib=needs and needs / MIB,
            call_mib=probe.found[one.name] / MIB if one.name in probe.found else None,
            our_time_to_its=ratio and ratio.median,
            least=ratio and ratio.low,
            most=ratio and ratio.high,
        )
    return turns


def tell_best(report: Report, setting: dict[str, Any], turns: Turns, bar: Bar) -> None:
    """A row of the bars: our time beside the best of the library's ways."""
    ways = [name for name in turns.seconds if name.startswith(bar.library)]
    if ways:
        best = turns.best(ways)
        found = turns.ratio(OURS, best)
        row = dict(best=best, our_time_to_its=found.median, least=found.low, most=found.high)
        report.row("Bars", **setting, **row, bar=bar.share, met=found.median <= bar.share)
