"""What compiling costs, whether a second process finds what the first has kept, and what an image costs.

    python -m benchmarks --suite compile [--network digits|cifar10] [--batches 1 16 64] [--sides 8 16 32]
        [--steps 10 100 1000] [--part programs images]

programs   the train step and the sampler, each in two processes that share an empty cache of compiled programs, all
           programs kept however short. Misses of the second process are a fault: a program whose text changes from
           process to process is compiled for ever. Beside it diffusers' training step under torch.compile, in two
           processes with a cache of Inductor's.
images     seconds an image of a compiled sampler, against the images of a call, their side and the steps.

Exit status 1: a second process compiled something again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.report import Report
from marble.errors import RunError

REPORTS, IN_CHILDREN = True, True
PEERS = ("diffusers",)
PARTS = ("programs", "images")
REQUESTS = "/jax/compilation_cache/compile_requests_use_cache"
HITS = "/jax/compilation_cache/cache_hits"
KEEP_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--network", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 32], help="of images, of 16 by 100 steps")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--smoke", action="store_true", help="a tiny model")


def run(options: argparse.Namespace, report: Report) -> int:
    """Both parts."""
    again = 0
    if "programs" in options.part:
        for what in ("step", "sampler"):
            again += tell_programs(report, options, what)
        if "diffusers" in options.peer:
            tell_peer(report, options)
    if "images" in options.part:
        for row in in_a_process(options, "images", "")["rows"]:
            report.row("An image", **row)
    if again:
        report.note(f"{again} programs were compiled again by a second process: their text or their key is not steady")
    return 1 if again else 0


def tell_programs(report: Report, options: argparse.Namespace, what: str) -> int:
    """A row for each of two processes; the misses of the second."""
    with tempfile.TemporaryDirectory(prefix="compiled_") as cache:
        for process in ("first", "second"):
            found = in_a_process(options, what, cache)
            report.row("Programs", program=what, network=options.network, process=process, **found)
    return found["misses"]


def tell_peer(report: Report, options: argparse.Namespace) -> None:
    """diffusers' training step, eager and compiled."""
    from benchmarks.machine import version
    from benchmarks.peers import left_out

    if version("diffusers") is None or version("torch") is None:
        report.note(left_out("diffusers", "diffusers"))
        return
    for way in ["eager"] if options.smoke else ["eager", "compile"]:
        with tempfile.TemporaryDirectory(prefix="compiled_") as cache:
            for process in ("first", "second"):
                found = in_a_process(options, f"diffusers {way}", cache)
                report.row("diffusers' training step", way=way, network=options.network, process=process, **found)


def in_a_process(options: argparse.Namespace, what: str, cache: str) -> dict[str, Any]:
    """What a process of its own has found."""
    asked = dict(what=what, network=options.network, smoke=options.smoke)
    asked |= dict(batches=options.batches, sides=options.sides, steps=options.steps)
    environment = {**os.environ, **KEEP_ALL}
    environment |= dict(JAX_COMPILATION_CACHE_DIR=cache, TORCHINDUCTOR_CACHE_DIR=cache)
    words = [sys.executable, "-m", "benchmarks.suites.compile", json.dumps(asked)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RunError(f"compiling the {what} ended with status {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def part(asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked of this process."""
    what = asked["what"]
    if what == "images":
        return {"rows": images(asked)}
    if what.startswith("diffusers"):
        return peer_step(asked, what.split()[1])
    return program(asked, what)


def program(asked: dict[str, Any], what: str) -> dict[str, Any]:
    """The seconds until the first result of the step or of the sampler, and what the cache said on the way."""
    import jax

    from benchmarks import ours

    counts = {REQUESTS: 0, HITS: 0}

    def count(event: str, **_: Any) -> None:
        if event in counts:
            counts[event] += 1

    jax.monitoring.register_event_listener(count)
    began = time.perf_counter()
    batch = 2 if asked["smoke"] else 64 if asked["network"] == "digits" else 8
    if what == "step":
        call = ours.training("float32", batch, 1, asked["smoke"], asked["network"]).call
    else:
        pipe = ours.pipeline("float32", batch, asked["smoke"], asked["network"])
        call = lambda: pipe.sample(batch, steps=2, batch_size=batch)  # noqa: E731
    jax.block_until_ready(call())
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    jax.block_until_ready(call())
    found = dict(until_the_first_result_seconds=seconds, the_next_seconds=time.perf_counter() - began)
    return {**found, "programs": counts[REQUESTS], "hits": counts[HITS], "misses": counts[REQUESTS] - counts[HITS]}


def peer_step(asked: dict[str, Any], way: str) -> dict[str, Any]:
    """The seconds of diffusers' first training step, and of a later one."""
    from benchmarks import ours
    from benchmarks.peers import diffusers

    batch = 2 if asked["smoke"] else 64 if asked["network"] == "digits" else 8
    built = ours.experiment("float32", batch, asked["smoke"], asked["network"], dropout=0.0)
    size = ours.NETWORKS[asked["network"]].shape[0]
    (one,) = diffusers.contenders("train", built.objective.model, batch, size, ours.count(built), "float32", (way,))
    took = []
    for _ in range(3):
        began = time.perf_counter()
        one.call()
        took.append(time.perf_counter() - began)
    return dict(until_the_first_result_seconds=took[0], the_next_seconds=took[-1])


def images(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each number of images, side and number of steps, the others as they are."""
    spec_side, few = (8, 2) if asked["smoke"] else (None, None)
    batches, sides, steps = asked["batches"], asked["sides"], asked["steps"]
    if asked["smoke"]:
        batches, sides, steps = [1, 2], [8], [2]
    middle, many = few or 16, min(100, max(steps))
    cases = [("batch", batch, spec_side, many) for batch in batches]
    cases += [("side", middle, side, many) for side in sides]
    cases += [("steps", middle, spec_side, count) for count in steps]
    return [image(asked, *case) for case in cases]


def image(asked: dict[str, Any], against: str, batch: int, side: int | None, steps: int) -> dict[str, Any]:
    """One of them: compiled, then the median of three calls."""
    import statistics

    from benchmarks import ours

    spec = ours.NETWORKS[asked["network"]]
    side = side or spec.shape[0]
    pipe = ours.pipeline("float32", batch, asked["smoke"], asked["network"], (side, side, spec.shape[-1]))
    took = []
    for _ in range(4):
        began = time.perf_counter()
        pipe.sample(batch, steps=steps, batch_size=batch)
        took.append(time.perf_counter() - began)
    seconds = statistics.median(took[1:])
    found = dict(against=against, network=asked["network"], batch=batch, side=side, steps=steps)
    return {**found, "first_call_seconds": took[0], "seconds": seconds, "ms_an_image": 1000 * seconds / batch}


if __name__ == "__main__":
    print(json.dumps(part(json.loads(sys.argv[1]))))
