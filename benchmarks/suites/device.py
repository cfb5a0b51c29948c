"""What marble does on this machine's accelerator: one program, that writes each result as it has it.

    python -m benchmarks --suite device --out DIR [--minutes 8] [--only PART ...] [--smoke]
    python -m benchmarks --suite device --report DIR ...

Parts, in this order:

    machine    devices, versions, the measured matrix peak in bfloat16 and float32 (TF32 on a GPU), memory bandwidth
    train      the CIFAR-10 network: float32 and bfloat16, batch 128 and 512, 1 and 16 steps a call
    sample     256 images by 1000 steps, 64 by 20
    peer       diffusers' UNet2DModel beside ours, in turns: eager and torch.compile, training and sampling
    text_to_image  Stable Diffusion 1.5's networks, 1, 4 and 16 images by 20 steps; and diffusers' loop of the same
    theory     the tests marked ``device``: formulas, samplers and images beside the CPU's, runs bit for bit
    profile    the ten longest kernels of a training step
    digits     configs/digits.py from start to end

Each part is a process of its own, which ends with the part: what hangs is stopped, and what fails is written down while
the rest goes on. DIR/results.jsonl has a line a result. --smoke makes everything tiny, for a CPU. --report makes
benchmarks/results/gpu.md of the results of one run or several, and the README's table.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import ROOT
from marble.errors import InputError

REPORTS, IN_CHILDREN, PEERS = False, True, ()
PARTS = {
    "machine": (20, 45),
    "train": (100, 170),
    "sample": (50, 90),
    "peer": (70, 120),
    "text_to_image": (80, 150),
    "theory": (50, 90),
    "profile": (30, 45),
    "digits": (60, 150),
}
"""The least seconds that are kept for each part while others run, and the most that it may take, of 8 minutes."""
LEAST_SECONDS = 5.0
"""A part that would have less is left out: it would hardly start."""


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--out", type=Path, help="the folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="what all parts together may take")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--report", nargs="+", type=Path, metavar="DIR", help="make the pages of these results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """All parts, one of them, or the report."""
    if options.report:
        from benchmarks.device_parts import report

        return report.write(options.report, ROOT)
    if options.out is None:
        raise InputError("--out is missing: give a folder for the results")
    options.out = options.out.resolve()
    if options.part:
        return run_part(options)
    with tempfile.TemporaryDirectory(prefix="compiled_") as cache:
        return run_all(options, cache)


def run_all(options: argparse.Namespace, cache: str) -> int:
    """Every part in a process of its own, within the time; 0 when none failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    begun, failed = time.monotonic(), []
    chosen = [name for name in PARTS if name in (options.only or PARTS)]
    for i, name in enumerate(chosen):
        left = 60 * options.minutes - (time.monotonic() - begun)
        limit = seconds_for(chosen[i:], left, options.minutes / 8)
        if left < LEAST_SECONDS:
            say(options.out, name, left_out=f"{left:.0f} s were left")
            continue
        if not run_child(options, name, limit, cache):
            failed.append(name)
    say(options.out, "end", seconds=round(time.monotonic() - begun, 1), failed=failed)
    return 1 if failed else 0


def seconds_for(names: Sequence[str], left: float, scale: float) -> float:
    """What the first of these parts may take, so that the others have their least; scale is 1 for 8 minutes."""
    least, most = PARTS[names[0]]
    kept = sum(PARTS[name][0] for name in names[1:])
    return min(left, max(LEAST_SECONDS, scale * least, min(scale * most, left - scale * kept)))


def run_child(options: argparse.Namespace, name: str, limit: float, cache: str) -> bool:
    """One part, for so many seconds at most; whether it came to its end. What it found before is replaced."""
    forget(options.out, name)
    print(f"== {name}, at most {limit:.0f} s", flush=True)
    words = [sys.executable, "-m", "benchmarks", "--suite", "device", "--part", name]
    words += ["--out", str(options.out), "--seconds", str(limit)]
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # PyTorch needs room on the same GPU, and peaks are to be seen
        "JAX_COMPILATION_CACHE_DIR": cache,  # the parts have programs in common
        **os.environ,
    }
    began = time.monotonic()
    log = options.out / f"{name}.log"
    with open(log, "w") as file:
        child = subprocess.Popen(
            [*words, *(["--smoke"] if options.smoke else [])],
            env=environment,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            child.wait()
            say(options.out, name, stopped=f"after {limit:.0f} s; what it had found stays")
            return True
    seconds = round(time.monotonic() - began, 1)
    if status:
        tail = log.read_text(errors="replace").splitlines()[-12:]
        say(options.out, name, failed=f"status {status}", log=tail, seconds=seconds)
        return False
    say(options.out, name, done=True, seconds=seconds)
    return True


def forget(out: Path, part: str) -> None:
    """Drops the results of a part from those of a run before, and its own folder."""
    shutil.rmtree(out / f"part_{part}", ignore_errors=True)
    results = out / "results.jsonl"
    if results.exists():
        lines = results.read_text().splitlines(keepends=True)
        results.write_text("".join(line for line in lines if json.loads(line)["part"] not in (part, "end")))


def run_part(options: argparse.Namespace) -> int:
    """One part in this process."""
    deadline = time.monotonic() + options.seconds
    try:
        importlib.import_module(f"benchmarks.device_parts.{options.part}").run(
            tell=lambda **row: say(options.out, options.part, **row),
            seconds_left=lambda: deadline - time.monotonic(),
            smoke=options.smoke,
            out=options.out,
        )
    except ModuleNotFoundError as error:
        say(options.out, options.part, left_out=f"{error.name} is not installed")
    return 0


def say(out: Path, part: str, **row: object) -> None:
    """A line of results.jsonl, on the disk when this returns."""
    line = json.dumps({"part": part, **row})
    print(line[:300], flush=True)
    with open(out / "results.jsonl", "a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
