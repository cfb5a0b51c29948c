"""DINOv2: published sizes, what scales and positions do, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.dinov2 import DinoV2

TINY = DinoV2(image_size=12, patch_size=4, width=24, num_layers=2, num_heads=3)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 12, 3)), jnp.float32)


def run(model, params, images):
    return jax.jit(model.apply)({"params": params}, images)


def drawn(model, images):
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize(
    "model, published",
    [
        (DinoV2(width=384, num_heads=6), 22_056_576),
        (DinoV2(), 86_580_480),
        (DinoV2(width=1024, num_layers=24, num_heads=16), 304_368_640),
    ],
    ids=["S/14", "B/14", "L/14"],
)
def test_published_networks_have_their_parameters(model, published):
    """Less the token that stands for hidden patches, which is for training alone."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == published - model.width
    assert shapes["positions"].shape == (1 + 37 * 37, model.width)


def test_scales_of_zero_leave_the_first_token_and_its_place():
    """Each branch is multiplied by its scale: at 0 the network is a LayerNorm of what it embeds."""
    params = drawn(TINY, IMAGES)
    for block in ("block_0", "block_1"):
        params[block] |= {"scale_0": jnp.zeros(24), "scale_1": jnp.zeros(24)}
    first = np.asarray(params["class_token"] + params["positions"][0])
    normal = (first - first.mean()) / np.sqrt(first.var() + 1e-6)
    expected = normal * params["norm_out"]["scale"] + params["norm_out"]["bias"]
    found = run(TINY, params, IMAGES)
    np.testing.assert_allclose(found.features, np.broadcast_to(expected, (2, 24)), atol=1e-5)
    np.testing.assert_array_equal(found.features, found.last[:, 0])


def test_one_scale_is_of_attention_and_the_other_of_the_perceptron():
    """Without the perceptron's branch, attention to equal tokens gives each its value."""
    params = drawn(TINY.clone(num_layers=1), IMAGES)
    params["positions"] = jnp.zeros_like(params["positions"])
    params["patches"] = jax.tree.map(jnp.zeros_like, params["patches"])
    params["patches"]["bias"] = params["class_token"]
    block = params["block_0"]
    block["scale_1"] = jnp.zeros(24)
    x = np.asarray(params["class_token"])
    h = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * block["norm_0"]["scale"] + block["norm_0"]["bias"]
    value = h @ block["attention"]["value"]["kernel"] + block["attention"]["value"]["bias"]
    y = x + block["scale_0"] * (value @ block["attention"]["proj"]["kernel"] + block["attention"]["proj"]["bias"])
    expected = (y - y.mean()) / np.sqrt(y.var() + 1e-6) * params["norm_out"]["scale"] + params["norm_out"]["bias"]
    found = run(TINY.clone(num_layers=1), params, IMAGES)
    np.testing.assert_allclose(found.last, np.broadcast_to(expected, (2, 10, 24)), atol=1e-4)


def test_positions_that_are_the_same_everywhere_stay_so_at_other_sizes():
    params = drawn(TINY, IMAGES)
    params["positions"] = jnp.broadcast_to(params["positions"][:1], (10, 24))
    images = jnp.zeros((1, 20, 8, 3))
    last = run(TINY, params, images).last
    assert last.shape == (1, 1 + 5 * 2, 24)
    np.testing.assert_allclose(last[0, 1:], np.broadcast_to(last[0, 1], (10, 24)), atol=1e-5)


def test_a_turned_grid_is_turned_at_other_sizes_too():
    """Positions [row column] turned to [column row], for an image on its side, give the same tokens turned."""
    params, images = drawn(TINY, IMAGES), jnp.zeros((1, 24, 8, 3))
    model = TINY.clone(num_layers=0)
    turned = params["positions"][1:].reshape(3, 3, 24).transpose(1, 0, 2).reshape(9, 24)
    others = {**params, "positions": jnp.concatenate([params["positions"][:1], turned])}
    upright = run(model, params, images).last[0, 1:].reshape(6, 2, 24)
    on_side = run(model, others, images.transpose(0, 2, 1, 3)).last[0, 1:].reshape(2, 6, 24)
    np.testing.assert_allclose(on_side, upright.transpose(1, 0, 2), atol=1e-5)
    assert np.abs(np.diff(upright, axis=0)).max() > 0.1 and np.abs(np.diff(upright, axis=1)).max() > 0.1


@pytest.mark.parametrize(
    "model, shape, message",
    [
        (TINY, (1, 12, 13, 3), r"\[1, 12, 13, 3\] must be \[b h w 3\], h and w multiples of 4: resize them"),
        (TINY, (1, 12, 12, 1), r"\[1, 12, 12, 1\] must be \[b h w 3\]"),
        (TINY.clone(num_heads=5), (1, 12, 12, 3), "24 channels can't be split into num_heads 5: take num_heads 4"),
    ],
)
def test_what_does_not_fit_is_refused(model, shape, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
