import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.data.preprocess import flip, to_float, to_uint8


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_are_evenly_spaced_from_end_to_end(levels):
    x = to_float(jnp.arange(levels, dtype=jnp.uint8), levels)
    assert x.dtype == jnp.float32
    assert x[0] == -1 and x[-1] == 1
    np.testing.assert_allclose(x, np.linspace(-1, 1, levels), atol=1e-7)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixels_come_back(levels):
    """Also after noise of less than half a level."""
    image = jnp.arange(levels, dtype=jnp.uint8)
    stretched = np.rint(np.arange(levels) * 255 / (levels - 1))
    for shift in (0, 0.45, -0.45):
        x = to_float(image, levels) + shift * 2 / (levels - 1)
        np.testing.assert_array_equal(to_uint8(x, levels), stretched)
    assert to_uint8(x, levels).dtype == jnp.uint8


def test_256_levels_are_round_127_5_times_x_plus_1():
    x = np.random.default_rng(7).uniform(-1, 1, 10_000).astype(np.float32)
    np.testing.assert_array_equal(to_uint8(x, 256), np.rint(127.5 * (x.astype(np.float64) + 1)))


def test_what_is_outside_is_clipped():
    np.testing.assert_array_equal(to_uint8(jnp.array([-7.0, -1.01, 1.01, jnp.inf]), 17), [0, 0, 255, 255])


def test_17_levels_show_17_greys():
    shown = to_uint8(jnp.linspace(-1.2, 1.2, 5001), 17)
    assert len(np.unique(shown)) == 17


def test_each_image_is_mirrored_or_not_by_its_own_key():
    images = jnp.asarray(np.random.default_rng(8).integers(0, 256, (64, 3, 4, 2), dtype=np.uint8))
    keys = jax.random.split(jax.random.key(0), 64)
    flipped = flip(images, keys)
    mirrored = np.array([bool(jax.random.bernoulli(key, jnp.float32(0.5))) for key in keys])
    assert flipped.dtype == images.dtype and 16 < mirrored.sum() < 48
    for i in range(64):
        np.testing.assert_array_equal(flipped[i], images[i][:, ::-1] if mirrored[i] else images[i])


def test_flips_do_not_depend_on_the_rest_of_the_batch():
    images = jnp.arange(6 * 2 * 3 * 1).reshape(6, 2, 3, 1)
    keys = jax.random.split(jax.random.key(1), 6)
    np.testing.assert_array_equal(flip(images, keys)[2:4], jax.jit(flip)(images[2:4], keys[2:4]))
