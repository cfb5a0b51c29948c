"""The residual block against a plain NumPy version."""

import jax
import numpy as np
import pytest

from marble.models.resnet import ResBlock


def norm(x, params, num_groups):
    b, h, w, c = x.shape
    groups = x.reshape(b, h * w, num_groups, c // num_groups)
    centred = groups - groups.mean((1, 3), keepdims=True)
    normed = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)
    return normed.reshape(x.shape) * params["scale"] + params["bias"]


def swish(x):
    return x / (1 + np.exp(-x))


def conv(x, params):
    """Pixel by pixel, with zeros around the image."""
    b, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.empty((b, h, w, params["kernel"].shape[-1]))
    for i in range(h):
        for j in range(w):
            y[:, i, j] = np.einsum("bijc,ijcd->bd", padded[:, i : i + 3, j : j + 3], params["kernel"])
    return y + params["bias"]


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def random_block(channels, features, dropout=0.0):
    module = ResBlock(features, dropout, num_groups=4)
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, channels))
    emb = jax.random.normal(jax.random.key(1), (2, 6))
    params = ResBlock(features, num_groups=4).init(jax.random.key(2), x, emb)["params"]
    keys = iter(jax.random.split(jax.random.key(3), 99))
    return module, jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params), x, emb


@pytest.mark.parametrize(("channels", "features"), [(8, 8), (8, 12)])
def test_block_is_its_formula(channels, features):
    module, params, x, emb = random_block(channels, features)
    p, y, e = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x, emb))
    h = conv(swish(norm(y, p["norm_0"], 4)), p["conv_0"]) + dense(swish(e), p["emb"])[:, None, None]
    h = conv(swish(norm(h, p["norm_1"], 4)), p["conv_1"])
    expected = h + (y if channels == features else dense(y, p["shortcut"]))
    np.testing.assert_allclose(module.apply({"params": params}, x, emb), expected, rtol=1e-4, atol=1e-3)


def test_block_starts_as_the_identity():
    module, _, x, emb = random_block(8, 8)
    params = module.init(jax.random.key(0), x, emb)
    np.testing.assert_array_equal(module.apply(params, x, emb), x)


def test_dropout_drops_and_keeps_the_mean():
    module, params, x, emb = random_block(8, 8, dropout=0.5)
    keys = jax.random.split(jax.random.key(4), 4000)
    draws = jax.vmap(lambda key: module.apply({"params": params}, x, emb, rngs={"dropout": key}))(keys)
    kept = ResBlock(8, num_groups=4).apply({"params": params}, x, emb)
    error = (draws.mean(0) - kept) / (draws.std(0) / np.sqrt(len(keys)))
    assert draws.std(0).min() > 0
    assert np.abs(error).max() < 6
