"""The audit catches copies and lets honest samples pass."""

import numpy as np
import pytest
from scipy import stats

from marble.errors import InputError
from marble.metrics import duplicate_rate, memorization

DIMENSION = 12


def draws(seed, n):
    return np.random.default_rng(seed).normal(size=(n, DIMENSION))


TRAIN, HELD_OUT, FRESH = draws(0, 600), draws(1, 400), draws(2, 500)


def test_a_fresh_split_passes():
    found = memorization(FRESH, TRAIN, HELD_OUT)
    low, high = stats.binom.interval(0.999, 500, 0.01)
    assert low / 500 <= found.copy_rate <= high / 500 + 0.01  # the quantile of 400 is a draw too
    assert found.isolated_rate == 0
    assert abs(found.data_copying) < 3.5
    assert found.authenticity == pytest.approx(memorization(HELD_OUT, TRAIN).authenticity, abs=0.1)
    assert found.authenticity > 0.5


def test_a_copied_training_set_is_caught():
    for noise in (0, 0.01):
        found = memorization(TRAIN[:200] + noise * FRESH[:200], TRAIN, HELD_OUT)
        assert (found.copy_rate, found.isolated_rate, found.authenticity) == (1, 1, 0)
        assert found.data_copying < -15
        np.testing.assert_array_equal(found.indices[:, 0], np.arange(200))
    assert memorization(TRAIN, TRAIN).copy_rate == 1


def test_a_few_copies_among_honest_samples_are_named():
    mixed = np.concatenate([FRESH[:90], TRAIN[5:15]])
    for held_out in (HELD_OUT, None):
        found = memorization(mixed, TRAIN, held_out)
        assert found.copied[90:].all() and found.copied[:90].mean() < 0.06
        np.testing.assert_array_equal(found.isolated, np.arange(100) >= 90)
        assert not found.authentic[90:].any()


def test_the_numbers_by_hand_on_a_line():
    train, held_out = np.array([[0.0], [10], [13]]), np.array([[2.0], [9]])
    found = memorization(np.array([[1.0], [11.6], [40]]), train, held_out, k=2, quantile=0.5)
    np.testing.assert_allclose(found.distances, [[1, 9], [1.4, 1.6], [27, 30]])
    np.testing.assert_array_equal(found.indices, [[0, 1], [2, 1], [2, 1]])
    assert found.threshold == 1.5  # the held-out ones are 2 and 1 away
    np.testing.assert_array_equal(found.copied, [True, True, False])
    np.testing.assert_array_equal(found.isolated, [True, False, False])
    # The training images' own neighbours are 10, 3 and 3 away.
    np.testing.assert_array_equal(found.authentic, [False, False, True])
    # 1 | 1, 1.4, 2, 27: generated ones have the ranks 1.5, 3, 5 of 5; U = 9.5 - 6 = 3.5 of 6, with one tie.
    spread = 6 / 12 * (6 - 6 / 20)
    assert found.data_copying == pytest.approx(0.5 / spread**0.5)


def test_a_third_of_the_way_and_whose_neighbours_count():
    train = np.array([[0.0], [10], [13]])
    found = memorization(np.array([[2.4], [2.6], [17], [8]]), train, k=2)
    np.testing.assert_array_equal(found.isolated, [True, False, False, False])
    np.testing.assert_array_equal(found.authentic, [False, False, True, False])


def test_distances_rank_as_scipy_has_it():
    found = memorization(FRESH[:60], TRAIN, HELD_OUT[:50])
    honest = memorization(HELD_OUT[:50], TRAIN).distances[:, 0]
    expected = stats.mannwhitneyu(found.distances[:, 0], honest, method="asymptotic", use_continuity=False)
    assert 2 * stats.norm.sf(abs(found.data_copying)) == pytest.approx(expected.pvalue, rel=1e-9)


def test_an_exact_copy_is_one_though_the_training_set_has_it_twice():
    twice = np.concatenate([TRAIN, TRAIN])
    found = memorization(np.concatenate([TRAIN[:3], FRESH]), twice)
    assert found.threshold == 0
    np.testing.assert_array_equal(np.flatnonzero(found.copied), [0, 1, 2])
    assert found.isolated[:3].all()


def test_pictures_of_bytes():
    images = np.random.default_rng(3).integers(0, 256, (60, 5, 5, 3), np.uint8)
    found = memorization(images[:20], images[10:50], images[50:])
    np.testing.assert_array_equal(found.isolated, np.arange(20) >= 10)
    assert found.copied[10:].all() and found.copied[:10].sum() < 3


def test_duplicates():
    assert duplicate_rate(FRESH) == 0
    assert duplicate_rate(np.concatenate([FRESH[:8], FRESH[:1], FRESH[:1]])) == 0.3
    assert duplicate_rate(np.array([[0.0], [1], [3]]), within=1) == pytest.approx(2 / 3)
    assert duplicate_rate(np.ones((4, 3, 3, 1), np.uint8)) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: memorization(FRESH, TRAIN[:3]), "the training images are 3, and 4 is the least"),
        (lambda: memorization(FRESH, TRAIN[:, :3]), "12 dimensions and the training images 3"),
        (lambda: memorization(FRESH, TRAIN, HELD_OUT[:0]), "the held-out images are 0, and 1 is the least"),
        (lambda: memorization(FRESH, TRAIN, quantile=1.0), "quantile=1.0"),
        (lambda: memorization(FRESH, TRAIN, k=1), "k=1"),
        (lambda: memorization(FRESH * np.nan, TRAIN), "the generated images: row 0 has NaN"),
        (lambda: duplicate_rate(FRESH[:1]), "images are 1, and 2 is the least"),
        (lambda: duplicate_rate(FRESH, within=-1.0), "within=-1.0 is a distance"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
