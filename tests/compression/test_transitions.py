"""p(x_s | x_t): q averaged over what is not known about x_0."""

import numpy as np
import pytest
from gaussian import SCHEDULE

from marble.compression.transitions import BUCKETS, DEVIATIONS, bucket, posterior, reverse
from marble.diffusion import q_posterior


def test_the_reverse_step_has_the_moments_of_q_over_x_0():
    rng = np.random.default_rng(0)
    x_t, prediction = rng.normal(size=(3, 5)), rng.uniform(-1, 1, (3, 5))
    deviation = rng.uniform(0.01, 1, (3, 5))
    step = dict(x_t=x_t, schedule=SCHEDULE, t=70, s=30)
    p = reverse(x_0=prediction, deviation=deviation, **step)
    either = [posterior(x_0=prediction + sign * deviation, **step) for sign in (-1, 1)]  # has x_0's two moments
    mean = sum(q.mean for q in either) / 2
    np.testing.assert_allclose(p.mean, mean, atol=1e-12)
    np.testing.assert_allclose(p.variance, sum(q.variance + (q.mean - mean) ** 2 for q in either) / 2)


def test_the_posterior_is_that_of_the_theory():
    x_0, x_t = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    levels = dict(level_t=SCHEDULE.level(70), level_s=SCHEDULE.level(30))
    expected = q_posterior(x_0=x_0, x_t=x_t, **levels)
    found = posterior(x_0=x_0, x_t=x_t, schedule=SCHEDULE, t=70, s=30)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(found.variance[0, 0], float(expected.variance), rtol=1e-5)


def test_every_prediction_has_a_bucket_and_every_code_a_deviation():
    buckets = bucket(np.linspace(-1, 1, 1001, dtype=np.float32))
    assert buckets.min() == 0 and buckets.max() == BUCKETS - 1 and (np.diff(buckets) >= 0).all()
    assert DEVIATIONS[0] == pytest.approx(2) and (np.diff(DEVIATIONS) < 0).all() and len(DEVIATIONS) == 64
