"""KID and CMMD by sums over pairs, written out, and by the closed forms of Gaussians."""

import itertools

import numpy as np
import pytest

from marble.errors import InputError
from marble.metrics import cmmd, gaussian_mmd, kid, polynomial_mmd

RNG = np.random.default_rng(0)
ONE, OTHER = RNG.normal(size=(9, 4)), RNG.normal(size=(7, 4)) + 0.5


def by_pairs(one, other, kernel, unbiased=True):
    """The definition: means over pairs, those of an image with itself left out where it is unbiased."""
    within = [
        np.mean([kernel(x[i], x[j]) for i, j in itertools.product(range(len(x)), repeat=2) if i != j or not unbiased])
        for x in (one, other)
    ]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in one for y in other])


def cubic(x, y):
    return (x @ y / len(x) + 1) ** 3


def test_polynomial_mmd_of_all_pairs():
    assert polynomial_mmd(ONE, OTHER).value == pytest.approx(by_pairs(ONE, OTHER, cubic), rel=1e-12)
    other_kernel = polynomial_mmd(ONE, OTHER, degree=2, gamma=0.7, coef0=0.2).value
    assert other_kernel == pytest.approx(by_pairs(ONE, OTHER, lambda x, y: (0.7 * x @ y + 0.2) ** 2), rel=1e-12)


@pytest.mark.parametrize("unbiased", [True, False])
def test_gaussian_mmd_of_all_pairs(unbiased):
    expected = by_pairs(ONE, OTHER, lambda x, y: np.exp(-((x - y) ** 2).sum() / (2 * 1.3**2)), unbiased)
    assert gaussian_mmd(ONE, OTHER, sigma=1.3, unbiased=unbiased).value == pytest.approx(expected, rel=1e-12)
    # The kernel does not change with the origin, and far from it no digit may be lost.
    far = gaussian_mmd(ONE + 1e6, OTHER + 1e6, sigma=1.3, unbiased=unbiased).value
    assert far == pytest.approx(expected, rel=1e-7)


def test_blocks_change_nothing(monkeypatch):
    one, other = RNG.normal(size=(2, 50, 3))
    whole = polynomial_mmd(one, other), gaussian_mmd(one, other, sigma=1.0)
    monkeypatch.setattr("marble.metrics.rows.blocks.__defaults__", (7,))
    parts = polynomial_mmd(one, other), gaussian_mmd(one, other, sigma=1.0)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_kid_is_the_mean_over_its_subsets():
    subsets = [(RNG.permutation(9)[:5], RNG.permutation(7)[:4]) for _ in range(3)]
    expected = [by_pairs(ONE[i], OTHER[j], cubic) for i, j in subsets]
    found = kid(ONE, OTHER, subsets=subsets)
    assert found == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12)
    whole = kid(ONE, OTHER[:, ::-1], num_subsets=2, subset_size=7, seed=1)
    assert whole == kid(ONE, OTHER[:, ::-1], num_subsets=2, subset_size=7, seed=1)
    assert whole != kid(ONE, OTHER[:, ::-1], num_subsets=2, subset_size=7, seed=2)


def gaussian_truth(dimension, shift, scale, sigma):
    """E exp(-|x - y|²/2 sigma²) for x - y ~ N(m, v I) is (sigma²/(sigma²+v))^(d/2) exp(-|m|²/2(sigma²+v))."""

    def mean_kernel(variance, square):
        whole = sigma**2 + variance
        return (sigma**2 / whole) ** (dimension / 2) * np.exp(-square / (2 * whole))

    across = mean_kernel(1 + scale**2, dimension * shift**2)
    return mean_kernel(2, 0) + mean_kernel(2 * scale**2, 0) - 2 * across


def cubic_truth(shift):
    """In one dimension, N(0, 1) against N(shift, 1): (xy + 1)³ is a sum over moments, whose differences count."""
    moments = np.array([1, 0, 1, 0]), np.array([1, shift, 1 + shift**2, shift**3 + 3 * shift])
    return (np.array([1, 3, 3, 1]) * (moments[0] - moments[1]) ** 2).sum()


def draws(seed, n, dimension, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).normal(size=(n, dimension))


def test_both_are_unbiased_even_of_few_images():
    polynomial, gaussian, biased = [], [], []
    for seed in range(1500):
        one, other = draws((seed, 0), 8, 1), draws((seed, 1), 6, 1, 0.5)
        polynomial.append(polynomial_mmd(one, other).value)
        one, other = draws((seed, 2), 8, 3), draws((seed, 3), 6, 3, 0.4, 1.2)
        gaussian.append(gaussian_mmd(one, other, sigma=1.5).value)
        biased.append(gaussian_mmd(one, other, sigma=1.5, unbiased=False).value)
    for found, truth in ((polynomial, cubic_truth(0.5)), (gaussian, gaussian_truth(3, 0.4, 1.2, 1.5))):
        assert abs(np.mean(found) - truth) < 4 * np.std(found) / 1500**0.5
    # What the V-statistic adds is (1 - E k)/n of either set.
    excess = sum((1 - (1.5**2 / (1.5**2 + 2 * v)) ** 1.5) / n for v, n in ((1, 8), (1.44, 6)))
    assert np.mean(biased) - np.mean(gaussian) == pytest.approx(excess, rel=0.03)


def test_cmmd_is_of_directions_and_counts_images_with_themselves():
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ONE, OTHER)]
    expected = [
        1000 * by_pairs(*units, lambda x, y: np.exp(-((x - y) ** 2).sum() / 200), unbiased) for unbiased in (0, 1)
    ]
    assert cmmd(7 * ONE, OTHER).value == pytest.approx(expected[0], rel=1e-9)
    assert cmmd(ONE, OTHER, unbiased=True).value == pytest.approx(expected[1], rel=1e-9)
    assert abs(cmmd(ONE, ONE).value) < 1e-9


def test_constant_images_are_allowed():
    constant = np.ones((5, 4))
    assert polynomial_mmd(constant, constant) == (0, 0, np.inf)
    assert gaussian_mmd(constant, constant + 1, sigma=2.0).value == pytest.approx(2 - 2 * np.exp(-4 / 8), rel=1e-14)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kid(ONE, OTHER), "subset_size=1000: .* no more than there are, 9 and 7"),
        (lambda: kid(ONE, OTHER, num_subsets=0, subset_size=3), "num_subsets=0"),
        (lambda: kid(ONE, OTHER, subset_size=1), "subset_size=1:"),
        (lambda: polynomial_mmd(ONE, OTHER[:1]), "the second features are 1, and 2 is the least"),
        (lambda: polynomial_mmd(ONE, OTHER[:, :3]), "4 dimensions and the second features 3"),
        (lambda: gaussian_mmd(ONE, OTHER, sigma=0.0), "sigma=0.0 must be above 0"),
        (lambda: gaussian_mmd(ONE, OTHER * np.nan, sigma=1.0), "the second features: row 0 has NaN"),
        (lambda: cmmd(ONE, OTHER * (np.arange(7) != 2)[:, None]), "the second features: row 2 is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
