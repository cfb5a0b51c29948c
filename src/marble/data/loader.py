"""Batches of examples: one order for any number of processes, resumed exactly from the step number.

The order of training is one infinite sequence of positions: the data set shuffled again for every epoch. Step k of
global batch size B takes positions [k B, (k + 1) B), process p of P the p-th of P contiguous parts of them. So the
global batch depends on (seed, k) alone, every epoch has every example once, and an epoch may end within a batch.
"""

import collections
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

import numpy as np

from marble.data.examples import ArrayExamples, Examples
from marble.errors import InputError

HostBatch = dict[str, np.ndarray]
T = TypeVar("T")

DECODING_THREADS = 16
SEEDS = 2**32


def train_batches(
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[HostBatch]:
    """This process's parts of the global batches of steps start_step, start_step + 1, ... without end.

    Yields `image` [b/P h w c] uint8, `index` [b/P] int32, the position in the global batch, where the data have them
    `label` [b/P] int32, and what arrays the examples have beside. Raises InputError where the processes don't divide
    the batch.
    """
    import grain

    if not 0 <= seed < SEEDS:
        raise InputError(f"seed {seed} is not in 0..{SEEDS - 1}: choose another")
    part = _part(batch_size, process_index, process_count)
    order = grain.MapDataset.range(len(examples)).shuffle(seed=seed).repeat()

    def example_at(step: int, index: int) -> int:
        return order[step * batch_size + index]

    return _batches(examples, example_at, part, start_step)


def eval_batches(
    examples: Examples,
    *,
    batch_size: int,
    num_examples: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[HostBatch]:
    """This process's parts of one pass in order over the examples, or over `num_examples` of them, at most all.

    A smaller number takes examples evenly spaced over the split, for splits are often sorted by class. Yields
    train_batches' arrays, `example` [b/P] int32, which of the split it is, and `mask` [b/P] float32: 1 for an
    example, 0 for padding of the last batch.
    """
    part = _part(batch_size, process_index, process_count)
    count = len(examples) if num_examples is None else min(num_examples, len(examples))

    def example_at(step: int, index: int) -> int:
        return min(step * batch_size + index, count - 1) * len(examples) // count

    def whole() -> Iterator[HostBatch]:
        for step, batch in enumerate(
            itertools.islice(_batches(examples, example_at, part, 0), -(-count // batch_size))
        ):
            example = np.array([example_at(step, index) for index in part.tolist()], np.int32)
            yield {**batch, "example": example, "mask": (step * batch_size + part < count).astype(np.float32)}

    return whole()


def to_device(batches: Iterable[HostBatch], put: Callable[[HostBatch], T], *, prefetch: int = 2) -> Iterator[T]:
    """put(batch) for each batch, called `prefetch` batches before it is asked for.

    No thread is needed: `put` starts a copy to the device and returns, and the step that uses an earlier batch is
    dispatched before the next copy starts. An error in `batches` or `put` is raised here, up to `prefetch` early.
    """
    source = iter(batches)
    ready = collections.deque(map(put, itertools.islice(source, prefetch)))
    while ready:
        yield ready.popleft()
        ready.extend(map(put, itertools.islice(source, 1)))


def _part(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """The positions in the global batch that are this process's [b/P]."""
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"batch size {batch_size} can't be divided among {process_count} processes: choose a positive multiple "
            f"of {process_count}"
        )
    share = batch_size // process_count
    return np.arange(process_index * share, (process_index + 1) * share, dtype=np.int32)


def _batches(
    examples: Examples, example_at: Callable[[int, int], int], part: np.ndarray, start_step: int
) -> Iterator[HostBatch]:
    gather = _gathered if isinstance(examples, ArrayExamples) else _decoded
    for batch in gather(examples, example_at, part.tolist(), start_step):
        yield {**batch, "index": part}


def _gathered(
    examples: ArrayExamples, example_at: Callable[[int, int], int], part: list[int], start_step: int
) -> Iterator[HostBatch]:
    for step in itertools.count(start_step):
        yield examples.take([example_at(step, index) for index in part])


def _decoded(
    examples: Examples, example_at: Callable[[int, int], int], part: list[int], start_step: int
) -> Iterator[HostBatch]:
    """As `_gathered`, each example decoded by a thread, ahead of its turn by up to two batches."""
    import grain

    def example(j: int) -> dict[str, np.ndarray]:
        step, index = divmod(j, len(part))
        found = examples[example_at(step, part[index])]
        return {key: value for key, value in found.items() if key != "text"}

    options = grain.ReadOptions(num_threads=DECODING_THREADS, prefetch_buffer_size=2 * len(part))
    decoded = grain.MapDataset.range(sys.maxsize).map(example).to_iter_dataset(options).batch(len(part))
    with closing(iter(decoded)) as batches:
        batches.set_state({"next_index": start_step * len(part)})
        yield from batches
