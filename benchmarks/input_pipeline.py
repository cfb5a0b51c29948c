"""How many images a second the input pipeline gives: as many as CIFAR-10 has, gathered, put together, put on a device.

    python benchmarks/input_pipeline.py [--num_processes 1]

A training step of the CIFAR-10 network takes about 8,000 images a second on one H100, so that is what it is compared
with. With --num_processes each of so many processes reads its part of the batches, at the same time, on this machine.
"""

import argparse
import itertools
import subprocess
import sys
import time

import jax
import numpy as np

from marble.data.examples import ArrayExamples
from marble.data.loader import to_device, train_batches
from marble.parallel import ParallelConfig

CONSUMER = 8000
BATCH_SIZE, STEPS, REPETITIONS = 128, 400, 5


def images_per_second(process_index: int, process_count: int) -> float:
    """The most of a few repetitions, of this process."""
    pixels = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    examples = ArrayExamples(image=pixels, label=np.zeros(len(pixels), np.int32))
    host = train_batches(
        examples, batch_size=BATCH_SIZE, seed=0, process_index=process_index, process_count=process_count
    )
    mapping = ParallelConfig().open(jax.local_devices()[:1])
    stacked = ({name: value[None] for name, value in batch.items()} for batch in host)
    batches = to_device(stacked, lambda batch: mapping.put_part(batch, batch_axis=1))
    best = 0.0
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for batch in itertools.islice(batches, STEPS):
            last = batch
        jax.block_until_ready(last)
        best = max(best, STEPS * BATCH_SIZE / process_count / (time.perf_counter() - began))
    return best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        print(images_per_second(arguments.part, arguments.num_processes))
        return
    words = [sys.executable, __file__, "--num_processes", str(arguments.num_processes)]
    parts = [
        subprocess.Popen([*words, "--part", str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(arguments.num_processes)
    ]
    found = sum(float(part.communicate()[0]) for part in parts)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {arguments.num_processes} processes")
    print(f"{found:,.0f} images/s, {found / CONSUMER:.1f} times what one H100 takes of them")


if __name__ == "__main__":
    main()
