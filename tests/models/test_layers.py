"""The common layers against their formulas and against flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.layers import Dropout, GroupNorm, conv, dense


def in_words(x, scale, bias, num_groups, epsilon=1e-6):
    """GroupNorm in float64, image by image and group by group."""
    y = np.empty(x.shape)
    size = x.shape[-1] // num_groups
    for image in range(x.shape[0]):
        for group in range(num_groups):
            part = slice(group * size, (group + 1) * size)
            values = x[image, ..., part].astype(np.float64)
            y[image, ..., part] = (values - values.mean()) / np.sqrt(values.var() + epsilon)
    return y * scale + bias


def random_norm(shape, num_groups, *, shift=0.0, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(shift, 2, shape), dtype)
    params = {"scale": rng.normal(size=shape[-1]), "bias": rng.normal(size=shape[-1])}
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    return GroupNorm(num_groups, dtype=dtype), {"params": params}, x


@pytest.mark.parametrize(("shape", "num_groups"), [((2, 5, 3, 12), 4), ((3, 4, 4, 8), 8), ((2, 7, 6), 1)])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_group_norm_is_its_formula(shape, num_groups, shift):
    norm, variables, x = random_norm(shape, num_groups, shift=shift)
    params = variables["params"]
    expected = in_words(np.asarray(x), np.asarray(params["scale"]), np.asarray(params["bias"]), num_groups)
    np.testing.assert_allclose(norm.apply(variables, x), expected, atol=2e-5)


def test_group_norm_has_the_gradients_of_flax():
    norm, variables, x = random_norm((2, 4, 4, 12), 3)
    weights = jax.random.normal(jax.random.key(1), x.shape)

    def gradients(module):
        return jax.grad(lambda v, x: (module.apply(v, x) * weights).sum(), (0, 1))(variables, x)

    ours, theirs = gradients(norm), gradients(nn.GroupNorm(3, epsilon=1e-6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)


def test_group_norm_of_a_constant_is_the_bias():
    # The variance is a difference that may round below 0: no NaN, and no constant blown up.
    norm, variables, x = random_norm((1, 4, 4, 8), 2)
    y = norm.apply(variables, jnp.full_like(x, 0.1))
    np.testing.assert_allclose(y, jnp.broadcast_to(variables["params"]["bias"], y.shape), atol=1e-3)


def test_group_norm_takes_its_sums_in_float32():
    # 4096 values of 1 and 3 in turns: a bfloat16 sum stops growing at 256.
    x = jnp.tile(jnp.array([1.0, 3.0], jnp.bfloat16), 2048).reshape(1, 64, 64, 1)
    norm = GroupNorm(1, dtype=jnp.bfloat16)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, x - 2)


@pytest.mark.parametrize(("channels", "num_groups", "remedy"), [(100, 32, "96 channels"), (8, 32, "num_groups 8")])
def test_group_norm_names_the_remedy(channels, num_groups, remedy):
    message = f"{channels} channels can't be split into num_groups {num_groups}: .*{remedy}"
    with pytest.raises(InputError, match=message):
        GroupNorm(num_groups).init(jax.random.key(0), jnp.zeros((1, 2, 2, channels)))


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"), [(dense(128), 64, 128), (conv(128), 9 * 64, 9 * 128), (conv(16), 9 * 64, 9 * 16)]
)
def test_kernels_are_drawn_as_in_ddpm(layer, fan_in, fan_out):
    # Uniform with variance 1 / average fan: between -sqrt(3 / fan) and sqrt(3 / fan).
    params = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 64)))["params"]
    bound = np.sqrt(3 / ((fan_in + fan_out) / 2))
    assert 0.98 * bound < jnp.abs(params["kernel"]).max() <= bound
    np.testing.assert_allclose(params["kernel"].std(), bound / np.sqrt(3), rtol=0.02)
    assert not params["bias"].any()


@pytest.mark.parametrize("layer", [dense, conv])
def test_zero_layers_start_at_zero(layer):
    params = layer(4, zero=True).init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
    assert not any(p.any() for p in jax.tree.leaves(params))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_is_flax_s(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 6)), dtype)
    key = jax.random.key(3)
    with jax.enable_x64(False):
        expected = nn.Dropout(0.3, deterministic=False).apply({}, x, rngs={"dropout": key})
    found = Dropout(0.3).apply({}, x, rngs={"dropout": key})
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype and 0.5 < (np.asarray(found, np.float32) != 0).mean() < 0.9
    with jax.enable_x64(True):
        np.testing.assert_array_equal(Dropout(0.3).apply({}, x, rngs={"dropout": key}), expected)


def test_no_dropout_draws_nothing():
    np.testing.assert_array_equal(Dropout(0.0).apply({}, jnp.ones(3)), jnp.ones(3))
