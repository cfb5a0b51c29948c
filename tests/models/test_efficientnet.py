"""EfficientNet-Lite0: its published size, TensorFlow's padding, and where a block adds what it was given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.efficientnet import (
    EfficientNetLite,
    InvertedResidual,
    blocks_of,
    convolve_by_group,
    convolve_by_tap,
)

RNG = np.random.default_rng(0)


def test_published_size():
    """4,652,008 parameters, beside running means and variances."""
    shapes = jax.eval_shape(EfficientNetLite().init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    assert sum(leaf.size for path, leaf in leaves if path[-1].key not in ("mean", "var")) == 4_652_008
    states = jax.eval_shape(EfficientNetLite().apply, {"params": shapes}, jnp.zeros((2, 224, 224, 3)))
    assert (states.features.shape, states.logits.shape) == ((2, 1280), (2, 1000))
    sides = [(112, 16), (56, 24), (28, 40), (14, 112), (7, 320)]  # Tan & Le 2019, table 1, of 224 pixels
    assert [a.shape for a in states.maps] == [(2, side, side, channels) for side, channels in sides]
    assert len(blocks_of(EfficientNetLite().stages)) == 16


@pytest.mark.parametrize("convolve", [convolve_by_group, convolve_by_tap])
@pytest.mark.parametrize("size, stride, sides", [(3, 1, (5, 6)), (3, 2, (8, 7)), (5, 2, (8, 7)), (5, 1, (4, 5))])
def test_depthwise_convolutions_pad_as_tensorflow_does(convolve, size, stride, sides):
    """SAME: ceil(side / stride) places, and of an odd padding the larger half below and right."""
    x, kernel = RNG.normal(size=(2, *sides, 3)), RNG.normal(size=(size, size, 1, 3))
    out = [-(-side // stride) for side in sides]
    total = [max((n - 1) * stride + size - side, 0) for n, side in zip(out, sides, strict=True)]
    padded = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    expected = np.zeros((2, *out, 3))
    for i in range(out[0]):
        for j in range(out[1]):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            expected[:, i, j] = (window * kernel[None, :, :, 0]).sum(axis=(1, 2))
    found = convolve(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), stride=stride)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("features, stride, adds", [(4, 1, True), (5, 1, False), (4, 2, False)])
def test_a_block_that_makes_nothing_gives_back_what_it_was_given(features, stride, adds):
    """With the last norm at zero the branch is zero; what is left is x, where its shape is kept."""
    x = jnp.asarray(RNG.normal(size=(1, 6, 6, 4)), jnp.float32)
    block = InvertedResidual(features, 3, stride, 6)
    params = block.init(jax.random.key(0), x)["params"]
    assert params["expand_conv"]["kernel"].shape == (1, 1, 4, 24)
    params["project_norm"]["scale"] = jnp.zeros(features)
    found = block.apply({"params": params}, x)
    assert found.shape == (1, 6 // stride, 6 // stride, features)
    np.testing.assert_array_equal(found, x if adds else jnp.zeros(found.shape))


def test_activations_are_clipped_at_six_and_the_last_of_a_block_are_not():
    x = jnp.full((1, 4, 4, 2), 100.0)
    block = InvertedResidual(3, 3, 1, 1)
    params = jax.tree.map(jnp.ones_like, block.init(jax.random.key(0), x)["params"])
    found = block.apply({"params": params}, x)
    # Two channels of 6, less a mean of 1, over the root of 1.001, plus 1.
    np.testing.assert_allclose(found, (12 - 1) / np.sqrt(1.001) + 1, rtol=1e-6)


def test_grey_images_are_refused():
    with pytest.raises(InputError, match=r"images of shape \[1, 32, 32, 1\] must be \[b h w 3\]"):
        jax.eval_shape(EfficientNetLite().init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
