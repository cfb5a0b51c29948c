"""The Fréchet distance by its closed forms, and by the matrix square root of scipy where that works."""

import numpy as np
import pytest
from scipy import linalg

from marble.errors import InputError
from marble.metrics import Moments, frechet_distance, frechet_distance_of_features, frechet_extrapolation


def rotation(dimension, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


def commuting(values_1, values_2, gap, seed=0):
    """Two Gaussians whose covariances have the same eigenvectors, and FD by them."""
    turn = rotation(len(values_1), seed)
    truth = gap @ gap + ((np.sqrt(values_1) - np.sqrt(values_2)) ** 2).sum()
    covariances = [(turn * values) @ turn.T for values in (values_1, values_2)]
    return (np.zeros(len(gap)), covariances[0], turn @ gap, covariances[1]), truth


def by_scipy(mean_1, cov_1, mean_2, cov_2):
    root = linalg.sqrtm(cov_1 @ cov_2)
    return (mean_1 - mean_2) @ (mean_1 - mean_2) + np.trace(cov_1 + cov_2 - 2 * root.real)


def of_features(one, other):
    moments = [Moments.of(features) for features in (one, other)]
    return [array for found in moments for array in (found.mean, found.covariance)]


@pytest.mark.parametrize("dimension", [1, 2, 30, 200])
def test_commuting_covariances(dimension):
    rng = np.random.default_rng(1)
    given, truth = commuting(*rng.exponential(size=(2, dimension)), rng.normal(size=dimension))
    assert frechet_distance(*given) == pytest.approx(truth, rel=1e-10)


def test_one_dimension():
    found = frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([-2.0]), np.array([[0.25]]))
    assert found == pytest.approx(9 + (2 - 0.5) ** 2, rel=1e-14)


@pytest.mark.parametrize("exponent", [6, 12])
def test_ill_conditioned_covariances(exponent):
    """Of diagonal ones all digits are kept; turned, an entry's rounding is 1e-16 of the largest, and its root 1e-8."""
    values_1, values_2 = np.logspace(0, -exponent, 50), np.logspace(-exponent, 0, 50)
    gap = np.zeros(50)
    given, truth = commuting(values_1, values_2, gap)
    assert frechet_distance(gap, np.diag(values_1), gap, np.diag(values_2)) == pytest.approx(truth, rel=1e-12)
    assert frechet_distance(*given) == pytest.approx(truth, rel=1e-7)
    same, _ = commuting(values_1, values_1, gap)
    assert 0 <= frechet_distance(*same) < 1e-12


def test_singular_covariances():
    values_1, values_2 = np.repeat([1.0, 0.0], 20), np.tile([0.0, 4.0], 20)
    given, truth = commuting(values_1, values_2, np.zeros(40))
    assert truth == 10 + 10 * 4 + 10
    assert frechet_distance(*given) == pytest.approx(truth, rel=1e-8)
    nothing = np.zeros((40, 40))
    assert frechet_distance(given[0], nothing, given[2], given[3]) == pytest.approx(80, rel=1e-12)
    assert frechet_distance(given[0], nothing, np.ones(40), nothing) == 40


@pytest.mark.parametrize("n, m", [(300, 200), (100, 60), (30, 200), (30, 20), (2, 2), (200, 3)])
def test_it_agrees_with_scipy_above_and_below_the_dimension(n, m):
    rng = np.random.default_rng(2)
    one = rng.normal(size=(n, 50)) @ rng.normal(size=(50, 50)) / 7
    other = rng.normal(size=(m, 50)) + 0.3
    statistics = of_features(one, other)
    expected = by_scipy(*statistics)
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance_of_features(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance_of_features(other, one) == pytest.approx(frechet_distance(*statistics), rel=1e-6)


def test_equal_sets_are_at_0_and_never_below():
    rng = np.random.default_rng(3)
    for n in (5, 40, 400):
        features = rng.normal(size=(n, 40)) * 100
        assert 0 <= frechet_distance_of_features(features, features) < 1e-7
        shifted = frechet_distance_of_features(features, features + 1e-2)
        assert shifted == pytest.approx(40 * 1e-4, abs=1e-7)


def test_constant_images_are_allowed():
    """They are a Gaussian without width: what is left is the means' distance and the other's trace."""
    constant, features = np.full((10, 3), 2.0), np.random.default_rng(4).normal(size=(50, 3))
    expected = ((features.mean(0) - 2) ** 2).sum() + features.var(0, ddof=1).sum()
    assert frechet_distance_of_features(constant, features) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance_of_features(constant, constant) == 0


def test_the_extrapolation_takes_off_most_of_what_few_images_add():
    rng, dimension = np.random.default_rng(5), 10
    mean, cov = np.full(dimension, 0.2), 1.5 * np.eye(dimension)
    truth = 0.4 + dimension * (np.sqrt(1.5) - 1) ** 2
    found = [frechet_extrapolation(rng.normal(size=(600, dimension)), mean, cov, points=8) for _ in range(20)]
    limits, raw = np.array([(each.value, each.distances[-1]) for each in found]).T
    assert raw.mean() - truth > 0.05
    assert abs(limits.mean() - truth) < 0.3 * (raw.mean() - truth)
    assert found[0].nums[0] == 60 and found[0].nums[-1] == 600 and (found[0].distances.argmax() == 0)
    # C of FD + C/n, for a reference of 1.5 I: the mean's trace, and the covariance's curvature.
    assert np.mean([each.slope for each in found]) == pytest.approx(10 + np.sqrt(1.5) * 10 * 11 / 4, rel=0.15)


MEAN, COV = np.zeros(3), np.eye(3)
FEATURES = np.random.default_rng(6).normal(size=(20, 3))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: frechet_distance(MEAN, COV, np.zeros(2), np.eye(2)), "have 3 and 2 dimensions"),
        (lambda: frechet_distance(MEAN, np.eye(2), MEAN, COV), r"the first .* shapes \[3\], \[2, 2\]"),
        (lambda: frechet_distance(MEAN, COV, MEAN, COV * np.nan), "the second .* NaN or infinity"),
        (lambda: frechet_distance(MEAN, COV, MEAN, COV - 2 * np.eye(3)[:1].T), "symmetric"),
        (lambda: frechet_distance(MEAN, COV, MEAN, np.diag([1.0, 1.0, -0.5])), "eigenvalue -0.5 beside 1"),
        (lambda: frechet_distance(MEAN, COV, MEAN, COV.astype(str)), "give real numbers"),
        (lambda: frechet_distance_of_features(FEATURES, FEATURES[:1]), "the second features are 1, and 2 is the least"),
        (lambda: frechet_distance_of_features(FEATURES, FEATURES[:, :2]), "3 dimensions and the second features 2"),
        (lambda: frechet_distance_of_features(FEATURES * np.inf, FEATURES), "the first features: row 0 has NaN"),
        (lambda: frechet_extrapolation(FEATURES, MEAN, COV, points=1), "at least 2 points"),
        (lambda: frechet_extrapolation(FEATURES, MEAN, COV, smallest=6), "from 2 to 20 - points"),
        (lambda: frechet_extrapolation(FEATURES, np.zeros(2), np.eye(2)), "3 dimensions and the reference 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
