"""The moving average against NumPy's sum of weights times parameters."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from marble.training.ema import ema_update


def weights(count, decay_of):
    """The weight of each of count updates in the average after the last: the first is taken whole."""
    decays = np.array([0.0, *(decay_of(t) for t in range(1, count))])
    after = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    return (1 - decays) * after


def averaged(values, **options):
    average = jnp.float32(1e6)  # the initial value, of which nothing is to be left
    for step, value in enumerate(values):
        average = ema_update(average, jnp.float32(value), step=jnp.int32(step), **options)
    return average


@pytest.mark.parametrize(
    ("options", "decay_of"),
    [
        ({"ema_decay": 0.9999}, lambda t: min(0.9999, (1 + t) / (10 + t))),
        ({"ema_decay": 0.9}, lambda t: min(0.9, (1 + t) / (10 + t))),
        ({"ema_decay": 0.9, "ema_warmup": False}, lambda t: 0.9),
    ],
)
def test_the_weights_are_those_of_the_formula(options, decay_of):
    values = np.random.default_rng(0).normal(size=150)
    expected = weights(150, decay_of)
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(averaged(values, **options), expected @ values, rtol=2e-5, atol=1e-6)


def test_what_is_said_of_the_first_update_s_weight():
    for count in (100, 1000):
        with_warmup = weights(count, lambda t: min(0.9999, (1 + t) / (10 + t)))[0]
        assert with_warmup <= math.factorial(10) / count**9
        np.testing.assert_allclose(weights(count, lambda t: 0.9999)[0], 0.9999 ** (count - 1), rtol=1e-9)


def test_the_warm_up_ends_where_it_says():
    def share(step):
        return float(ema_update(jnp.float32(0), jnp.float32(1), step=jnp.int32(step), ema_decay=0.9999))

    assert share(89_000) > 1.0001e-4
    np.testing.assert_allclose([share(89_990), share(10**6)], 1e-4, rtol=1e-4)


def test_the_first_update_is_taken_to_the_bit():
    value = jnp.float32(0.1)
    assert ema_update(jnp.float32(1e30), value, step=jnp.int32(0), ema_decay=0.5) == value
