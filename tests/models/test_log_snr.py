"""Learned curves: what they can be, whatever their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models import LearnedLinear, LearnedMonotone

T = jnp.linspace(0, 1, 33)


def curve_and_params(curve, seed, scale):
    params = curve.init(jax.random.key(seed), T)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return lambda t: curve.apply({"params": tree.unflatten(moved)}, t), tree.unflatten(moved)


@pytest.mark.parametrize("curve", [LearnedLinear(), LearnedMonotone(features=8)])
def test_curves_fall_between_their_ends_whatever_their_parameters(curve):
    for seed in range(5):
        log_snr, params = curve_and_params(curve, seed, scale=seed)
        values = log_snr(T)
        assert (np.diff(values) <= 0).all()
        ends = [params["log_snr_max"], params["log_snr_max"] - jnp.abs(params["fall"])]
        np.testing.assert_allclose(values[jnp.array([0, -1])], ends, atol=1e-4)
        np.testing.assert_allclose(log_snr(T[5]), values[5], atol=1e-4)


def test_fresh_curves_have_the_ends_of_the_config():
    for curve in (LearnedLinear(9.0, -7.0), LearnedMonotone(9.0, -7.0, features=8)):
        values = curve.apply(curve.init(jax.random.key(0), T), T)
        np.testing.assert_allclose(values[jnp.array([0, -1])], [9, -7], atol=1e-5)
    np.testing.assert_allclose(
        LearnedLinear(9.0, -7.0).apply(LearnedLinear(9.0, -7.0).init(jax.random.key(0), T), T), 9 - 16 * T, atol=1e-5
    )


def test_the_shape_is_apart_from_the_ends():
    curve = LearnedMonotone(features=8)
    params = curve.init(jax.random.key(0), T)["params"]
    bent = {**params, "shape": jax.tree.map(lambda x: x + 1.0, params["shape"])}
    straight, other = (curve.apply({"params": p}, T) for p in (params, bent))
    np.testing.assert_allclose(straight[jnp.array([0, -1])], other[jnp.array([0, -1])], atol=1e-4)
    assert np.abs(straight - other).max() > 0.05


def test_impossible_arguments_are_refused():
    for curve, message in (
        (LearnedLinear(-1.0, 1.0), "log_snr_min=1.0 must be below log_snr_max=-1.0"),
        (LearnedMonotone(features=0), "features=0"),
    ):
        with pytest.raises(InputError, match=message):
            curve.init(jax.random.key(0), T)
