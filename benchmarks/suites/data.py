"""How many images a second the input pipeline gives: as many as CIFAR-10 has, gathered, put together, put on a device.

    python -m benchmarks --suite data [--num_processes 1]

A training step of the CIFAR-10 network takes about 8,000 images a second on one H100, so that is what it is compared
with. With --num_processes each of so many processes reads its part of the batches, at the same time, on this machine.
"""

import argparse
import itertools
import subprocess
import sys
import time

from benchmarks.machine import ROOT
from benchmarks.report import Report

REPORTS, IN_CHILDREN, PEERS = True, True, ()
CONSUMER = 8000
IMAGES, BATCH_SIZE, STEPS, REPETITIONS = 50_000, 128, 400, 5


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few images, once")


def images_per_second(process_index: int, process_count: int, smoke: bool) -> float:
    """The most of a few repetitions, of this process."""
    import jax
    import numpy as np

    from marble.data.examples import ArrayExamples
    from marble.data.loader import to_device, train_batches
    from marble.parallel import ParallelConfig

    images, steps, repetitions = (512, 8, 2) if smoke else (IMAGES, STEPS, REPETITIONS)
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)
    examples = ArrayExamples(image=pixels, label=np.zeros(len(pixels), np.int32))
    host = train_batches(
        examples, batch_size=BATCH_SIZE, seed=0, process_index=process_index, process_count=process_count
    )
    mapping = ParallelConfig().open(jax.local_devices()[:1])
    stacked = ({name: value[None] for name, value in batch.items()} for batch in host)
    batches = to_device(stacked, lambda batch: mapping.put_part(batch, batch_axis=1))
    best = 0.0
    for _ in range(repetitions):
        began = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            last = batch
        jax.block_until_ready(last)
        best = max(best, steps * BATCH_SIZE / process_count / (time.perf_counter() - began))
    return best


def run(options: argparse.Namespace, report: Report) -> int:
    """A process for each part, at the same time."""
    count = options.num_processes
    code = "import sys; from benchmarks.suites.data import images_per_second as f; print(f({}, {}, {}))"
    parts = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(i, count, options.smoke)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for i in range(count)
    ]
    printed = [part.communicate()[0].split() for part in parts]
    if any(part.returncode for part in parts):
        report.note(f"{sum(bool(part.returncode) for part in parts)} of {count} processes failed: see above")
        return 1
    found = sum(float(words[-1]) for words in printed)
    report.row("The input", processes=count, images_per_second=found, times_what_one_H100_takes=found / CONSUMER)
    return 0
