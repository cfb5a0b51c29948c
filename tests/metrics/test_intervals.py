"""Of 200 repeats, a 95 % interval holds the truth in 90 to 99 %."""

import numpy as np
import pytest

from marble.errors import InputError
from marble.metrics import (
    Estimate,
    bootstrap,
    frechet_estimate,
    frechet_estimate_of_features,
    gaussian_mmd,
    half_sample_errors,
    inception_estimate,
    inception_score,
    jackknife,
    mean_estimate,
    polynomial_mmd,
    prdc,
    share_interval,
)

REPEATS = 200


def coverage(estimate, truth):
    """The share of repeats whose interval holds the truth; estimate is given a generator."""
    intervals = [estimate(np.random.default_rng((11, repeat))).interval() for repeat in range(REPEATS)]
    return np.mean([low <= truth <= high for low, high, _ in intervals])


def assert_covers(estimate, truth):
    assert 0.90 <= coverage(estimate, truth) <= 0.99


def test_means():
    assert_covers(lambda rng: mean_estimate(rng.exponential(size=100)), 1.0)
    assert_covers(lambda rng: mean_estimate(rng.normal(size=4)), 0.0)  # Student's t counts
    assert_covers(lambda rng: mean_estimate(rng.random(300) < 0.3), 0.3)


@pytest.mark.parametrize(("share", "n"), [(0.3, 100), (0.99, 100), (0.005, 1000)])
def test_shares(share, n):
    held, low_high = 0, []
    for repeat in range(1000):
        found = share_interval(np.random.default_rng((14, repeat)).random(n) < share)
        held += found.low <= share <= found.high
        low_high.append(found[:2])
    assert 0.90 <= held / 1000 <= 0.99
    assert 0 <= np.min(low_high) <= np.max(low_high) <= 1


def test_a_share_of_none_or_all_is_no_point():
    none, all_ = share_interval(np.zeros(50, bool)), share_interval(np.ones(50, bool))
    assert none.low == 0 < none.high < 0.1 and 0.9 < all_.low < all_.high == 1
    with pytest.raises(InputError, match="level=1 must be between 0 and 1"):
        share_interval(np.ones(5, bool), level=1)


def test_the_frechet_limit_is_the_same_in_any_order():
    """Images of two classes in turn: half of them must not be one class."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(600, 4)) + 5 * (np.arange(600) % 2)[:, None]
    mean, cov = rows.mean(0), np.cov(rows.T)
    found = [frechet_estimate(order, mean, cov).limit for order in (rows, rng.permutation(rows))]
    assert abs(found[0].value - found[1].value) < 0.5


@pytest.mark.parametrize(
    "method", [jackknife, lambda *given: bootstrap(*given, num=80)], ids=["jackknife", "bootstrap"]
)
def test_any_smooth_statistic(method):
    """exp of the mean of N(0, 1) and the maximum likelihood variance, both off by their curvature on average."""

    def of(statistic, n):
        def estimate(rng):
            values = rng.normal(size=n)
            return method(lambda rows: statistic(values[rows]), n)

        return estimate

    assert_covers(of(lambda values: np.exp(values.mean()), 120), 1.0)
    assert_covers(of(np.var, 200), 1.0)


def test_the_jackknife_takes_the_bias_off():
    """Of the variance over n it gives that over n - 1 when each image is left out, whatever their number."""
    values = np.random.default_rng(0).normal(size=23)
    found = jackknife(lambda rows: values[rows].var(), 23, groups=23)
    assert found.value == pytest.approx(values.var(ddof=1), rel=1e-12)
    linear = jackknife(lambda rows: values[rows].mean(), 23, groups=5)
    assert linear.value == pytest.approx(values.mean(), rel=1e-12)
    single = jackknife(lambda rows: values[rows].mean(), 23, groups=23)
    assert (single.error, single.degrees) == pytest.approx((values.std(ddof=1) / 23**0.5, 22))


def test_the_bootstrap_takes_the_bias_off():
    """Of the variance over n: resampled it is (n - 1)/n of itself on average, and so 1/n of it is added."""
    values = np.random.default_rng(0).normal(size=10)
    found = bootstrap(lambda rows: values[rows].var(), 10, num=4000)
    assert found.value == pytest.approx(values.var() * (1 + 1 / 10), rel=0.03)


DIMENSION = 8
ROTATION = np.linalg.qr(np.random.default_rng(1).normal(size=(DIMENSION, DIMENSION)))[0]
SPREADS, GAP = np.linspace(0.5, 1.5, DIMENSION), np.full(DIMENSION, 0.15)
COV = (ROTATION * SPREADS**2) @ ROTATION.T
FRECHET = GAP @ GAP + ((1 - SPREADS) ** 2).sum()
"""Of N(0, I) and N(GAP, COV)."""


@pytest.mark.parametrize("n", [4 * DIMENSION, 300])
def test_the_frechet_distance_of_endless_images(n):
    """The reference is known; without taking off what n images add, no interval would hold it."""
    assert_covers(lambda rng: frechet_estimate(rng.normal(size=(n, DIMENSION)), GAP, COV).limit, FRECHET)
    raw = coverage(lambda rng: frechet_estimate(rng.normal(size=(n, DIMENSION)), GAP, COV).at_num, FRECHET)
    assert raw < 0.9


def test_the_frechet_distance_of_heavy_tails():
    """Its bias and error ask for fourth moments, which are not a Gaussian's."""

    def estimate(rng):
        scales = np.sqrt(6 / rng.chisquare(8, size=(500, 1)))  # a Student's t of 8 degrees with variance 1
        return frechet_estimate(scales * rng.normal(size=(500, DIMENSION)), GAP, COV).limit

    assert_covers(estimate, FRECHET)


def test_the_frechet_distance_of_two_draws():
    def estimate(rng):
        one, other = rng.normal(size=(400, DIMENSION)), rng.normal(size=(60, DIMENSION))
        return frechet_estimate_of_features(one, GAP + (other * SPREADS) @ ROTATION.T).limit

    assert_covers(estimate, FRECHET)
    found = [estimate(np.random.default_rng((12, repeat))).value for repeat in range(200)]
    assert abs(np.mean(found) - FRECHET) < 4 * np.std(found) / 200**0.5


def test_the_frechet_bias_and_error_are_those_of_a_gaussian():
    """Of N(0, I) and a reference of the same shape the bias is d (1 + (d + 1)/4) / n, whatever the gap, to first order.

    To first order the distance is |mean - gap|², with variance 4 |gap|² / n.
    """
    rng = np.random.default_rng(2)
    found = [frechet_estimate(rng.normal(size=(2000, 4)), np.ones(4), np.eye(4)) for _ in range(200)]
    assert np.mean([each.bias for each in found]) == pytest.approx(4 * (1 + 5 / 4) / 2000, rel=0.05)
    assert np.mean([each.error for each in found]) == pytest.approx((4 * 4 / 2000) ** 0.5, rel=0.02)


def test_below_the_dimension_there_is_an_error_but_no_limit():
    rng = np.random.default_rng(3)
    found = [frechet_estimate(rng.normal(size=(12, 20)), np.full(20, 0.5), np.eye(20)) for _ in range(200)]
    assert found[0].bias is None and found[0].limit is None
    assert np.mean([each.error for each in found]) == pytest.approx(np.std([each.value for each in found]), rel=0.35)


def test_constant_images_have_a_frechet_estimate():
    found = frechet_estimate(np.ones((10, 2)), np.zeros(2), np.eye(2))
    assert found == pytest.approx((4, 0, 0))


def test_kid_and_the_gaussian_mmd():
    """In one dimension, of N(0, 1) against N(s, 1): (g x y + 1)³ is a sum over moments; see test_kernel."""
    shift, gamma = 0.5, 0.3
    truth = 3 * gamma * shift**2 + 3 * gamma**2 * shift**4 + gamma**3 * (shift**3 + 3 * shift) ** 2

    def kid(rng):
        return polynomial_mmd(rng.normal(size=(200, 1)), shift + rng.normal(size=(150, 1)), gamma=gamma)

    def gaussian(rng):
        return gaussian_mmd(rng.normal(size=(150, 1)), shift + rng.normal(size=(200, 1)), sigma=1.0)

    assert_covers(kid, truth)
    assert_covers(gaussian, 2 * 3**-0.5 * (1 - np.exp(-(shift**2) / 6)))


def test_the_inception_score():
    """Classes 0..3 with p(y | x) = (1 - e) for one of them and e/3 for the others, e of two sizes, all as often."""
    sure = np.array([0.1, 0.6])
    entropies = -(1 - sure) * np.log(1 - sure) - sure * np.log(sure / 3)
    truth = 4 * np.exp(-entropies.mean())

    def logits(rng, n=200):
        wrong, own = rng.choice(sure, n), rng.integers(0, 4, n)
        return np.log(np.where(np.arange(4) == own[:, None], 1 - wrong[:, None], wrong[:, None] / 3))

    assert_covers(lambda rng: inception_estimate(logits(rng)), truth)
    found = [inception_estimate(logits(np.random.default_rng((13, repeat)), 40)).value for repeat in range(500)]
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / 500**0.5
    # The same by leaving out groups.
    one = logits(np.random.default_rng(4), 2000)
    by_groups = jackknife(lambda rows: inception_score(one[rows], splits=1).mean, 2000, groups=40)
    found = inception_estimate(one)
    assert found.value == pytest.approx(by_groups.value, abs=0.05 * found.error)
    assert found.error == pytest.approx(by_groups.error, rel=0.4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_estimate(np.ones(1)), "values are 1, and 2 is the least"),
        (lambda: mean_estimate(np.array([0, np.nan])), "row 1 has NaN"),
        (lambda: Estimate(0.0, 1.0).interval(95), "level=95 must be between 0 and 1"),
        (lambda: jackknife(len, 5, groups=6), "groups=6 must be between 2 and the number of images, 5"),
        (lambda: bootstrap(len, 5, num=1), "num=1 resamplings"),
        (lambda: frechet_estimate(np.ones((1, 2)), np.zeros(2), np.eye(2)), "features are 1, and 2 is the least"),
        (lambda: frechet_estimate(np.ones((5, 3)), np.zeros(2), np.eye(2)), "3 dimensions and the reference 2"),
        (lambda: frechet_estimate_of_features(np.ones((5, 3)), np.ones((5, 2))), "3 dimensions and the second"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("gap", "spread"), [(0.0, 1.0), (0.3, 0.8)])
def test_recall_and_coverage_over_draws_of_the_generated_images(gap, spread):
    """The truth is their mean over the draws, for both depend on the number of images."""
    real = np.random.default_rng(3).normal(size=(150, 2))
    values, errors = [], []
    for repeat in range(REPEATS):
        fake = gap + spread * np.random.default_rng((13, repeat)).normal(size=(150, 2))
        shares, balls = prdc(real, fake)
        values.append((shares.recall, balls.coverage))
        errors.append(half_sample_errors(real, fake, seed=repeat))
    truth = np.mean(values, axis=0)
    for i, name in enumerate(("recall", "coverage")):
        found = [Estimate(v[i], getattr(e, name), e.degrees) for v, e in zip(values, errors, strict=True)]
        held = [low <= truth[i] <= high for low, high, _ in (each.interval() for each in found)]
        assert 0.90 <= np.mean(held) <= 0.99, name
