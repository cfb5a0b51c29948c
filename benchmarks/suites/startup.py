"""How long it takes until something is there, each in a process of its own, in turns; and what an installation takes.

    python -m benchmarks --suite startup [--workdir RUN] [--rounds N]

The import of marble and the help of its command, beside Python's own start, the import of jax and that of diffusers'
pipelines. Then the first digits image, 1000 steps, by ``marble sample``: cold, with an empty cache of compiled
programs, and warm, with the cache that the cold one has left; beside a script that opens a DDPMPipeline of the same
network from a folder, which compiles nothing. RUN is one of configs/digits.py; without it one is made here, of one
training step, which takes as long to sample. Sizes are those of the files of the installed packages, by their names.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.report import Report
from marble.errors import RunError

REPORTS, IN_CHILDREN = True, True
PEERS = ("diffusers",)
MARBLE = [sys.executable, "-m", "marble.cli.main"]
LARGEST = 8
"""Packages that have a row of their own."""
ONE_STEP = {"num_steps": 1, "log_every": 1, "checkpoint_every": 1, "eval_every": 0, "sample_every": 0}
PEER_FOLDER = """
import sys
from benchmarks import ours
from benchmarks.peers.diffusers import SAMPLERS, torch_unet
import diffusers
built = ours.experiment("float32", 1, sys.argv[2] == "smoke", "digits")
net = torch_unet(built.objective.model, 8)
diffusers.DDPMPipeline(net, SAMPLERS["ancestral"]()).save_pretrained(sys.argv[1])
"""
PEER_SAMPLE = """
import sys
from diffusers import DDPMPipeline
pipe = DDPMPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
image = pipe(num_inference_steps=int(sys.argv[2]), output_type="np").images[0, :, :, 0]
from PIL import Image
Image.fromarray((255 * image).round().astype("uint8")).save(sys.argv[3])
"""


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--workdir", type=Path, help="a run of configs/digits.py")
    parser.add_argument("--rounds", type=int, default=5, help="of what has no image; images have one or two fewer")
    parser.add_argument("--smoke", action="store_true", help="a tiny model of two steps, each once")


def run(options: argparse.Namespace, report: Report) -> int:
    """All tables."""
    rounds = 1 if options.smoke else options.rounds
    has_peer = "diffusers" in options.peer and is_there("diffusers", report)
    tell_imports(report, rounds, has_peer)
    with tempfile.TemporaryDirectory(prefix="startup_") as folder:
        tell_first_images(report, options, Path(folder), max(1, rounds // 2), has_peer)
    tell_sizes(report, "marble", ["marble-diffusion"])
    if has_peer:
        tell_sizes(report, "diffusers", ["torch", "diffusers"])
    return 0


def is_there(package: str, report: Report) -> bool:
    """Whether it is installed; says so where not, without importing it."""
    from benchmarks.machine import version
    from benchmarks.peers import left_out

    if version(package) is None:
        report.note(left_out(package, package))
    return version(package) is not None


def tell_imports(report: Report, rounds: int, has_peer: bool) -> None:
    """What is typed often, in turns."""
    python = [sys.executable, "-c"]
    commands = {
        "python": [*python, "pass"],
        "import jax": [*python, "import jax"],
        "import marble": [*python, "import marble"],
        "import marble.pipelines": [*python, "import marble.pipelines"],
        "marble --help": [*MARBLE, "--help"],
    }
    if has_peer:
        commands["import torch"] = [*python, "import torch"]
        commands["import of diffusers' DDPMPipeline"] = [*python, "from diffusers import DDPMPipeline"]
    tell_in_turns(report, "Starting", {name: starting(words) for name, words in commands.items()}, rounds)


def tell_in_turns(report: Report, table: str, calls: dict[str, Callable[[], None]], rounds: int) -> None:
    """A row of each: its median, the least and the most."""
    from benchmarks.timing import in_turns

    turns = in_turns(calls, rounds=rounds, before=0)
    for name, seconds in turns.seconds.items():
        report.row(table, what=name, seconds=turns.median(name), least=float(seconds.min()), most=float(seconds.max()))


def tell_first_images(report: Report, options: argparse.Namespace, folder: Path, rounds: int, has_peer: bool) -> None:
    """The first image of a process: cold, then warm, then the peer's, in turns."""
    workdir = options.workdir and options.workdir.absolute()
    workdir = workdir or one_step(folder / "run", options.smoke)
    steps, cache, out = 2 if options.smoke else 1000, folder / "cache", folder / "out"
    words = [*MARBLE, "sample", "--workdir", str(workdir), "--num", "1", "--steps", str(steps), "--out", str(out)]

    def ours(*, cold: bool) -> None:
        shutil.rmtree(out, ignore_errors=True)
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
        starting(words, JAX_COMPILATION_CACHE_DIR=str(cache))()

    calls = {"marble sample, cold": lambda: ours(cold=True), "marble sample, warm": lambda: ours(cold=False)}
    if has_peer:
        saved = folder / "diffusers"
        starting([sys.executable, "-c", PEER_FOLDER, str(saved), "smoke" if options.smoke else "digits"])()
        script = [sys.executable, "-c", PEER_SAMPLE, str(saved), str(steps), str(folder / "peer.png")]
        calls["diffusers' DDPMPipeline"] = starting(script)
    tell_in_turns(report, f"The first image, {steps} steps", calls, rounds)


def one_step(workdir: Path, smoke: bool) -> Path:
    """A run of the digits that has made one step."""
    changes = [f"--config.training.{key}={value}" for key, value in ONE_STEP.items()]
    words = ["--config", "digits:smoke" if smoke else "digits", "--workdir", str(workdir)]
    starting([*MARBLE, "train", *words, *([] if smoke else changes)])()
    return workdir


def starting(words: list[str], **environment: str) -> Callable[[], None]:
    """A call that runs a command to its end; RunError, with its last line, if it fails."""

    def call() -> None:
        done = subprocess.run(
            words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise RunError(f"{' '.join(words[:6])} ... ended with status {done.returncode}: {last}")

    return call


def tell_sizes(report: Report, whose: str, roots: list[str]) -> None:
    """What the packages of an installation take on the disk, the largest first."""
    sizes = {name: size_of(name) for name in closure(roots)}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)
    for name in largest[:LARGEST]:
        report.row("Installed", whose=whose, package=name, mib=sizes[name] / 2**20)
    rest = sum(sizes[name] for name in largest[LARGEST:])
    report.row("Installed", whose=whose, package=f"{len(largest[LARGEST:])} others", mib=rest / 2**20)
    report.row("Installed", whose=whose, package=f"all {len(largest)}", mib=sum(sizes.values()) / 2**20)


def closure(roots: Iterable[str]) -> set[str]:
    """The installed packages that these require, without extras, themselves among them; canonical names."""
    from packaging.requirements import Requirement

    found, todo = set(), [(plain(name), frozenset[str]()) for name in roots]
    while todo:
        name, extras = todo.pop()
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in map(Requirement, required):
            marker = requirement.marker
            of_extras = [{"extra": extra} for extra in extras or {""}]
            if marker is None or any(marker.evaluate(extra) for extra in of_extras):
                wanted = plain(requirement.name), frozenset(requirement.extras)
                if wanted[0] not in found:
                    todo.append(wanted)
    return found


def size_of(name: str) -> int:
    """Bytes of a package's files."""
    files = importlib.metadata.files(name) or []
    paths = (Path(file.locate()) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file())


def plain(name: str) -> str:
    """A package's name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
