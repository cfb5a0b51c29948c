"""Precision, recall, density and coverage by hand, and by all distances written out."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from marble.errors import InputError
from marble.metrics import density_coverage, half_sample_errors, prdc, precision_recall
from marble.metrics.half_samples import WIDER, drawn_halves

# The corners of a square, and one point far away: with k = 1 the corners' balls reach the next corner.
SQUARE = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [9, 1]], float)


def by_all_distances(real, fake, k):
    """Each definition as the papers have it, with ties in the ball; the precision, recall, density, coverage."""
    radii = [np.sort(cdist(points, points), 1)[:, k] for points in (real, fake)]
    across = cdist(fake, real)
    in_real, in_fake = across <= radii[0], radii[1] >= across.T
    return in_real.any(1).mean(), in_fake.any(1).mean(), in_real.sum() / (k * len(fake)), in_real.any(0).mean()


def all_four(real, fake, k):
    found, other = precision_recall(real, fake, k=k), density_coverage(real, fake, k=k)
    return found.precision, found.recall, other.density, other.coverage


def test_a_square_by_hand():
    """Radii are 1, and 8 of the outlier, whose ball reaches the corners at the height of its own."""
    fake = np.array([[0.5, 0.5], [0.2, 0.0], [1.0, 3.0], [9.0, 9.0], [-0.5, -0.5], [30.0, 0.0]])
    found = precision_recall(SQUARE, fake, k=1)
    np.testing.assert_array_equal(found.inside_real, [True, True, False, True, True, False])
    # The generated ones' radii: 0.58 of the first two, 2.55 of (1, 3), 10 of (9, 9), 0.86 and 22.8. (0.2, 0) is 0.2
    # from the origin, (1, 3) 2.24 from (0, 1) and 2 from (1, 1), (9, 9) 8 from (9, 1); none is near enough to (1, 0).
    np.testing.assert_array_equal(found.inside_fake, [True, True, False, True, True])
    others = density_coverage(SQUARE, fake, k=1)
    # (0.5, 0.5) is in four balls; (0.2, 0) in those of (0, 0), (1, 0); (1, 3) is 2 from the next corner and 8.25 from
    # the outlier; (9, 9) is 8 from it, on its surface; (-0.5, -0.5) is 0.7 from the origin.
    np.testing.assert_array_equal(others.balls, [4, 2, 0, 1, 1, 0])
    np.testing.assert_array_equal(others.covered, [True] * 5)
    assert (others.density, others.coverage) == (8 / 6, 1)


def test_collapsed_samples_are_precise_and_cover_little():
    fake = np.full((6, 2), 0.0)
    found, others = precision_recall(SQUARE, fake, k=1), density_coverage(SQUARE, fake, k=1)
    assert (found.precision, found.recall) == (1, 0.2)
    # The origin is in its own ball, and on the surface of its two neighbours'.
    assert (others.density, others.coverage) == (3, 0.6)


def test_equal_and_far_sets():
    assert all_four(SQUARE, SQUARE, 2)[:2] == (1, 1)
    assert all_four(SQUARE, SQUARE + 100, 2) == (0, 0, 0, 0)
    # On a copy every ball holds its centre and k neighbours.
    line = np.random.default_rng(0).normal(size=(30, 300)) + 50
    copied = density_coverage(line, line.copy(), k=4)
    assert (copied.density, copied.coverage) == (5 / 4, 1)


@pytest.mark.parametrize("block", [2048, 11])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_brute_force(k, block, monkeypatch):
    monkeypatch.setattr("marble.metrics.rows.blocks.__defaults__", (block,))
    rng = np.random.default_rng(1)
    for dimension, scale in ((2, 0.7), (2, 1.5), (20, 0.9)):
        real, fake = rng.normal(size=(60, dimension)), scale * rng.normal(size=(45, dimension)) + 0.2
        assert all_four(real, fake, k) == pytest.approx(by_all_distances(real, fake, k), rel=1e-14)
        # On a grid there are many ties, which count as inside.
        real, fake = np.round(2 * real), np.round(2 * fake)
        assert all_four(real, fake, k) == pytest.approx(by_all_distances(real, fake, k), rel=1e-14)


@pytest.mark.parametrize("k, density_k", [(3, 5), (4, 2), (2, 2)])
def test_all_four_at_once_are_the_same(k, density_k):
    rng = np.random.default_rng(3)
    real, fake = np.round(rng.normal(size=(2, 50, 2)), 1)
    found, others = prdc(real, fake, k=k, density_k=density_k)
    for one, other in ((found, precision_recall(real, fake, k=k)), (others, density_coverage(real, fake, k=density_k))):
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first, second)


def test_equal_distributions_have_the_expected_density_and_coverage():
    """1, and 1 - 1/2^k (Naeem et al. 2020, eq. 6-7) for as many of both."""
    rng = np.random.default_rng(2)
    found = [density_coverage(*rng.normal(size=(2, 400, 16)), k=3) for _ in range(10)]
    assert np.mean([each.density for each in found]) == pytest.approx(1, abs=0.05)
    assert np.mean([each.coverage for each in found]) == pytest.approx(1 - 2**-3, abs=0.02)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: precision_recall(SQUARE, SQUARE[:3]), "the generated images are 3, and 4 is the least"),
        (lambda: density_coverage(SQUARE, SQUARE), "the real images are 5, and 6 is the least"),
        (lambda: density_coverage(SQUARE, SQUARE[:0], k=2), "the generated images are 0, and 1 is the least"),
        (lambda: precision_recall(SQUARE, SQUARE[:, :1]), "2 dimensions and the generated images 1"),
        (lambda: precision_recall(SQUARE * np.nan, SQUARE), "the real images: row 0 has NaN"),
        (lambda: precision_recall(SQUARE, SQUARE, k=0), "k=0 must be at least 1"),
        (lambda: prdc(SQUARE, SQUARE), "the real images are 5, and 6 is the least"),
        (lambda: prdc(SQUARE, SQUARE, density_k=0), "k=3, density_k=0: give 1 or more"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("n", "m", "k", "density_k"), [(60, 50, 3, 5), (40, 90, 1, 4)])
def test_errors_are_the_spread_over_halves(n, m, k, density_k):
    """Each half by itself, and of the coverage the balls of more neighbours."""
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(n, 3)), 0.2 + rng.normal(size=(m, 3))
    halves = drawn_halves(m, 7, seed=5)
    assert (halves.sum(1) == m // 2).all() and len(np.unique(halves, axis=0)) == 7
    recalls = [precision_recall(real, fake[half], k=k).recall for half in halves]
    covered = [density_coverage(real, fake[half], k=int(WIDER * density_k)).coverage for half in halves]
    found = half_sample_errors(real, fake, k=k, density_k=density_k, num=7, seed=5)
    assert found[:2] == pytest.approx((np.std(recalls, ddof=1), np.std(covered, ddof=1)), rel=1e-12)
    assert found.degrees == 6


def test_half_the_images_have_to_be_enough():
    with pytest.raises(InputError, match="num=1 halves: give at least 2"):
        half_sample_errors(SQUARE, SQUARE, num=1)
    with pytest.raises(InputError, match="the generated images are 5, and 8 is the least"):
        half_sample_errors(np.zeros((9, 2)), SQUARE)
