"""How good samples are after as many images seen: marble beside diffusers' training script, the same network.

    pip install matplotlib 'marble-diffusion[peers,features]'
    python -m benchmarks --suite quality --out DIR [--tiny] [--images 512000] [--points 4] [--num 5000] [--data_dir D]
    python -m benchmarks --suite quality --out DIR --folder IMAGES     # 32x32, in place of cifar10
    python -m benchmarks --suite quality --out DIR --draw_only         # the picture and the table of what DIR has

Each side trains by its own recipe on the same images, with the same batch size, and is looked at as often. The averaged
parameters of both are sampled by one program, marble's, from the same noise (diffusers' come over by marble.convert),
and judged by the same images: FD-EffNetLite0 with its interval of 95 % over draws of samples. One side trains after the
other. Seconds are of training alone, with what comes before its first step, compiling among it.

DIR/quality.jsonl has a line for each point as soon as it is known, DIR/quality.png the curves. --tiny is for a CPU.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import peers
from benchmarks.machine import version
from benchmarks.quality_parts import marble_side, page
from benchmarks.quality_parts.setting import Setting, setting
from marble.evaluation import EvaluationOptions, SampleOptions, of_source
from marble.evaluation.evaluator import Evaluator
from marble.evaluation.samples import of_pipeline

REPORTS, IN_CHILDREN, PEERS = False, False, ("diffusers",)
DEFAULTS = {
    # images seen, points, samples, images of the reference, DDIM's steps
    False: dict(images=512_000, points=4, num=5000, reference_num=20_000, steps=50),
    True: dict(images=32_000, points=4, num=400, reference_num=1000, steps=25),
}
"""By --tiny."""


def run(options: argparse.Namespace) -> int:
    """Trains, samples and judges, if that is not there yet; the table and the picture."""
    for name, value in DEFAULTS[options.tiny].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.draw_only:
        compare(options)
    elif not (options.out / "quality.jsonl").exists():
        print(f"{options.out} has no quality.jsonl: leave --draw_only out", file=sys.stderr)
        return 2
    about, rows = page.read(options.out)
    print(page.table(rows))
    try:
        page.draw(options.out / "quality.png", about, rows)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: the picture is drawn by --draw_only where it is")
    return 0


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--tiny", action="store_true", help="a network that a CPU trains in minutes")
    for name, told in {
        "images": "images that each side sees",
        "points": "how often a side is looked at",
        "num": "samples of each",
        "reference_num": "training images that judge them",
        "steps": "steps of the sampler, DDIM",
    }.items():
        parser.add_argument(f"--{name}", type=int, help=told)
    parser.add_argument("--data_dir", help="where cifar10 is prepared; by default where marble data prepare writes it")
    parser.add_argument("--folder", help="a folder of 32x32 images in place of cifar10")
    parser.add_argument("--features", default="effnet", help="effnet, or effnet:PATH")
    parser.add_argument("--draw_only", action="store_true", help="the picture and the table of what --out has")


def compare(options: argparse.Namespace) -> None:
    """Trains, samples and judges, and writes a line for each point."""
    data = {"data_dir": options.data_dir}
    if options.folder:
        data = {"name": "image_folder", "source": options.folder, "image_size": 32}
    what = setting(options.images, options.points, tiny=options.tiny, data=data)
    distance = judge(options, what)
    sides = [marble_side]
    if peers.opened(options.peer, print):
        from benchmarks.quality_parts import diffusers_side

        sides.append(diffusers_side)
    (options.out / "quality.jsonl").write_text(json.dumps(described(options, what, sides)) + "\n")
    for side, step, seconds, params in trained(what, sides):
        began = time.perf_counter()
        (number,) = distance(params, side)
        row = dict(side=side, step=step, images=step * what.batch_size, seconds=round(seconds, 1), fd=number.value)
        row |= dict(low=number.interval.low, high=number.interval.high)
        row |= dict(judged_in=round(time.perf_counter() - began, 1))
        with open(options.out / "quality.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{side}: {row['images']:,} images, {seconds:.0f} s: {page.told(row)}", flush=True)


def trained(what: Setting, sides: list[ModuleType]) -> Iterator[tuple[str, int, float, Any]]:
    """(side, step, seconds, parameters) of all points."""
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            for point in side.points(what, Path(folder) / "run"):
                yield side.NAME, *point


def judge(options: argparse.Namespace, what: Setting) -> Any:
    """A function of parameters and a name: the Fréchet distance of what they draw."""
    pipe = what.experiment.pipeline(None)
    reference = of_source(what.source, "train").take(min(options.reference_num, what.source.splits["train"]))
    sampling = SampleOptions(seed=0, sampler="ddim", steps=options.steps)
    evaluator = Evaluator(EvaluationOptions(["fd"], [options.features]), reference)

    def distance(params: Any, name: str) -> Any:
        params = pipe.mapping.place(params)
        return evaluator.numbers(of_pipeline(pipe, options.num, sampling, name=name, params=params))

    return distance


def described(options: argparse.Namespace, what: Setting, sides: list[ModuleType]) -> dict[str, Any]:
    """What was compared, for the page."""
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(what.experiment.init_params)))
    device = jax.devices()[0].device_kind
    cores = f", {os.cpu_count()} cores" if jax.default_backend() == "cpu" else ""
    return {
        "title": f"{count:,} parameters on {what.source.name}, batch {what.batch_size}, {device}{cores}",
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "num": options.num,
        "reference_num": min(options.reference_num, what.source.splits["train"]),
        "steps": options.steps,
        "dtype": what.config.model.dtype,
        "recipes": {side.NAME: side.RECIPE for side in sides},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "torch", "diffusers")},
        },
    }
