import itertools
import threading

import numpy as np
import pytest

from marble.data.examples import ArrayExamples, StoredExamples
from marble.data.loader import eval_batches, to_device, train_batches
from marble.errors import InputError


def held(n):
    """n examples, each image filled with its own number, each label too."""
    number = np.arange(n)
    return ArrayExamples(
        image=np.broadcast_to(number[:, None, None, None], (n, 2, 2, 1)).astype(np.uint8),
        label=number.astype(np.int32),
        text=[str(i) for i in range(n)],
    )


def stored(n):
    examples = held(n)
    return StoredExamples(range(n), lambda i, record: examples[record])


KINDS = pytest.mark.parametrize("kind", [held, stored])


def first(batches, count):
    return list(itertools.islice(batches, count))


def labels(batches, count):
    return np.concatenate([batch["label"] for batch in first(batches, count)])


def assert_equal_batches(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@KINDS
def test_a_batch_has_these_arrays(kind):
    batch = next(train_batches(kind(20), batch_size=6, seed=0))
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {"image": ((6, 2, 2, 1), np.uint8), "label": ((6,), np.int32), "index": ((6,), np.int32)}
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    np.testing.assert_array_equal(batch["index"], np.arange(6))


def test_data_without_labels_give_batches_without():
    assert set(next(train_batches(ArrayExamples(held(9).image), batch_size=2, seed=0))) == {"image", "index"}


@KINDS
@pytest.mark.parametrize("process_count", [2, 4])
def test_any_number_of_processes_sees_one_order(kind, process_count):
    whole = first(train_batches(kind(50), batch_size=8, seed=3), 20)
    parts = [
        first(train_batches(kind(50), batch_size=8, seed=3, process_index=p, process_count=process_count), 20)
        for p in range(process_count)
    ]
    joined = [{key: np.concatenate([part[k][key] for part in parts]) for key in whole[k]} for k in range(20)]
    assert_equal_batches(joined, whole)


@KINDS
@pytest.mark.parametrize("start_step", [1, 5, 13])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(kind, start_step):
    whole = first(train_batches(kind(50), batch_size=8, seed=3, process_index=1, process_count=2), 20)
    resumed = train_batches(kind(50), batch_size=8, seed=3, start_step=start_step, process_index=1, process_count=2)
    assert_equal_batches(first(resumed, 20 - start_step), whole[start_step:])


def test_held_and_stored_examples_give_the_same_batches():
    assert_equal_batches(*(first(train_batches(kind(50), batch_size=8, seed=3), 20) for kind in (held, stored)))


@pytest.mark.parametrize("n, batch_size", [(50, 8), (1, 4), (7, 7), (3, 10), (257, 16)])
def test_every_epoch_has_every_example_once_in_a_new_order(n, batch_size):
    epochs = 6
    order = labels(train_batches(held(n), batch_size=batch_size, seed=1), -(-epochs * n // batch_size))
    by_epoch = order[: epochs * n].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(by_epoch, axis=1), np.broadcast_to(np.arange(n), (epochs, n)))
    if n >= 50:
        assert len(np.unique(by_epoch, axis=0)) == epochs
        assert not (by_epoch == np.arange(n)).all(1).any()


def test_another_seed_is_another_order():
    orders = [labels(train_batches(held(50), batch_size=10, seed=seed), 5).tolist() for seed in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 3


def test_evaluation_passes_once_in_order_and_masks_the_padding():
    batches = list(eval_batches(held(11), batch_size=4))
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(mask, [1] * 11 + [0])
    assert mask.dtype == np.float32 and {len(batch["image"]) for batch in batches} == {4}
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches])[:11], np.arange(11))


def test_a_split_smaller_than_a_batch_is_evaluated():
    (batch,) = eval_batches(held(3), batch_size=8)
    assert batch["image"].shape == (8, 2, 2, 1) and batch["mask"].sum() == 3


def test_fewer_examples_of_an_evaluation_are_spread_over_the_split():
    batches = list(eval_batches(held(100), batch_size=4, num_examples=10))
    for found in ("label", "example"):
        np.testing.assert_array_equal(np.concatenate([b[found] for b in batches])[:10], np.arange(0, 100, 10))
    assert np.concatenate([b["mask"] for b in batches]).sum() == 10 and len(batches) == 3
    assert len(list(eval_batches(held(10), batch_size=5, num_examples=99))) == 2


@KINDS
def test_evaluation_is_the_same_for_any_number_of_processes(kind):
    whole = list(eval_batches(kind(11), batch_size=4))
    parts = [list(eval_batches(kind(11), batch_size=4, process_index=p, process_count=2)) for p in range(2)]
    joined = [{key: np.concatenate([part[k][key] for part in parts]) for key in whole[k]} for k in range(3)]
    assert_equal_batches(joined, whole)


@pytest.mark.parametrize("batches", [train_batches, eval_batches])
@pytest.mark.parametrize("batch_size", [6, 0, -4])
def test_a_batch_that_the_processes_do_not_divide_is_refused(batches, batch_size):
    seed = {"seed": 0} if batches is train_batches else {}
    with pytest.raises(InputError, match=f"batch size {batch_size} can't be divided among 4 processes"):
        batches(held(20), batch_size=batch_size, process_count=4, **seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match=f"seed {seed} is not in"):
        train_batches(held(20), batch_size=4, seed=seed)


def test_decoding_threads_end_with_the_batches():
    before = threading.active_count()
    batches = train_batches(stored(50), batch_size=8, seed=0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    for thread in threading.enumerate()[before:]:
        thread.join(timeout=10)
    assert threading.active_count() <= before


def test_an_error_in_decoding_reaches_the_caller():
    def decode(i, record):
        raise InputError(f"image {i} is not readable")

    with pytest.raises(InputError, match=r"image \d+ is not readable"):
        next(train_batches(StoredExamples(range(5), decode), batch_size=2, seed=0))


def test_batches_are_put_ahead_of_their_turn_and_in_order():
    events = []
    on_device = to_device(range(5), lambda batch: events.append(f"put {batch}") or batch, prefetch=2)
    for batch in on_device:
        events.append(f"use {batch}")
    expected = "put 0, put 1, use 0, put 2, use 1, put 3, use 2, put 4, use 3, use 4"
    assert ", ".join(events) == expected


def test_an_error_while_putting_reaches_the_caller():
    def put(batch):
        return 1 / (3 - batch)

    on_device = to_device(itertools.count(), put, prefetch=2)
    assert [next(on_device), next(on_device)] == [1 / 3, 1 / 2]
    with pytest.raises(ZeroDivisionError):
        list(itertools.islice(on_device, 3))
