"""Self-attention against a plain NumPy version, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.attention import SelfAttention, attend, check_heads
from marble.models.layers import GroupNorm


def random_attention(num_heads, shape=(2, 3, 4, 8)):
    module = SelfAttention(num_heads, num_groups=4)
    x = jax.random.normal(jax.random.key(0), shape)
    params = module.init(jax.random.key(1), x)["params"]
    keys = iter(jax.random.split(jax.random.key(2), 99))
    return module, jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params), x


@pytest.mark.parametrize("num_heads", [1, 2, 8])
def test_attention_is_its_formula(num_heads):
    module, params, x = random_attention(num_heads)
    normed = np.asarray(GroupNorm(4).apply({"params": params["norm"]}, x), np.float64).reshape(2, 12, 8)
    q, k, v = (normed @ params[name]["kernel"] + params[name]["bias"][None, None] for name in ("query", "key", "value"))
    attended = np.empty((2, 12, 8))
    size = 8 // num_heads
    for image in range(2):
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[image, :, part] @ k[image, :, part].T / np.sqrt(size)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            attended[image, :, part] = weights / weights.sum(1, keepdims=True) @ v[image, :, part]
    expected = attended @ params["proj"]["kernel"] + params["proj"]["bias"][None, None]
    expected = np.asarray(x) + expected.reshape(x.shape)
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_in_float64_every_digit_counts(x64):
    q, k, v = (np.random.default_rng(i).normal(size=(2, 5, 3, 4)) for i in range(3))
    scores = np.einsum("bqhc,bkhc->bhqk", q, k) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhc->bqhc", weights, v)
    np.testing.assert_allclose(attend(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)), expected, rtol=1e-12)
    single = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


def test_attention_does_not_know_where_pixels_are():
    module, params, x = random_attention(2)
    shuffle = np.random.default_rng(0).permutation(12)

    def shuffled(images):
        return images.reshape(2, 12, 8)[:, shuffle].reshape(images.shape)

    out = module.apply({"params": params}, x)
    np.testing.assert_allclose(module.apply({"params": params}, shuffled(x)), shuffled(out), rtol=1e-4, atol=1e-4)


def test_attention_starts_as_the_identity():
    module = SelfAttention(num_groups=4)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    np.testing.assert_array_equal(module.apply(module.init(jax.random.key(1), x), x), x)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match="8 channels can't be split into num_heads 3: take num_heads 2"):
        SelfAttention(num_heads=3, num_groups=4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))


@pytest.mark.parametrize("num_heads", [0, -2])
def test_there_is_a_head(num_heads):
    with pytest.raises(InputError, match=f"num_heads {num_heads} must be at least 1"):
        check_heads(8, num_heads)
