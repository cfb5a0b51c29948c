"""The named ways to a network's size, each beside the library that it is named after as far as NumPy and Pillow go."""

import jax.numpy as jnp
import numpy as np
import pytest
from features.toy_network import linear_network
from PIL import Image

from marble.errors import InputError
from marble.features.resize import RESIZES, check_resize, resized, to_pixels

RNG = np.random.default_rng(0)
CHECKS = np.indices((32, 24)).sum(0)[None, :, :, None] % 2 * np.uint8(255) * np.ones((1, 1, 1, 3), np.uint8)
NOISE = RNG.integers(0, 256, (2, 32, 24, 3)).astype(np.uint8)


def through_pillow(image, size):
    """clean-fid's: each channel as floats, bicubic, and cut to 0..255."""
    channels = [
        Image.fromarray(np.float32(image[..., c])).resize((size, size), Image.Resampling.BICUBIC) for c in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1).clip(0, 255)


@pytest.mark.parametrize("images", [CHECKS, NOISE], ids=["checks", "noise"])
@pytest.mark.parametrize("size", [75, 16])
def test_clean_fid_is_pillow_s_bicubic_of_floats(images, size):
    found = resized(to_pixels(jnp.asarray(images), "uint8"), size, RESIZES["clean_fid"])
    np.testing.assert_allclose(found, [through_pillow(image, size) for image in images], atol=2e-3)


def test_bicubic_goes_beyond_white_and_is_cut():
    found = resized(jnp.asarray(CHECKS, jnp.float32), 75, RESIZES["clean_fid"])
    assert found.min() == 0 and found.max() == 255
    assert resized(jnp.asarray(CHECKS, jnp.float32), 75, RESIZES["clean_fid"]._replace(clips=False)).max() > 256


def test_torch_fidelity_is_tensorflow_1():
    """One output pixel: the four about (i h / H, j w / W), by their nearness."""
    image, size = np.float32(NOISE[0]), 75
    found = resized(jnp.asarray(image[None]), size, RESIZES["torch_fidelity"])[0]
    for i, j in [(0, 0), (7, 50), (74, 74), (33, 12)]:
        y, x = i * 32 / size, j * 24 / size
        top, left = int(y), int(x)
        down, right = min(top + 1, 31), min(left + 1, 23)
        dy, dx = y - top, x - left
        upper = image[top, left] * (1 - dx) + image[top, right] * dx
        lower = image[down, left] * (1 - dx) + image[down, right] * dx
        np.testing.assert_allclose(found[i, j], upper * (1 - dy) + lower * dy, atol=2e-3)


def test_ddpm_differs_from_it_in_rounding_alone():
    assert RESIZES["ddpm"].axis is RESIZES["torch_fidelity"].axis
    assert (RESIZES["ddpm"].rounding, RESIZES["torch_fidelity"].rounding) == ("float", "uint8")


@pytest.mark.parametrize("name", RESIZES)
def test_an_image_of_the_size_is_left_as_it_is(name):
    pixels = jnp.asarray(RNG.uniform(0, 255, (1, 16, 16, 3)), jnp.float32)
    np.testing.assert_array_equal(resized(pixels, 16, RESIZES[name]), pixels)


@pytest.mark.parametrize("name", RESIZES)
def test_rows_and_columns_are_not_confused(name):
    turned = resized(jnp.asarray(NOISE.transpose(0, 2, 1, 3), jnp.float32), 40, RESIZES[name])
    upright = resized(jnp.asarray(NOISE, jnp.float32), 40, RESIZES[name])
    np.testing.assert_allclose(turned.transpose(0, 2, 1, 3), upright, atol=1e-3)


def test_floats_are_rounded_to_8_bits_or_not():
    x = np.float32([-1, -0.5, 0.0001, 0.3, 1]).reshape(1, 1, 5, 1)
    exact = (x + 1) * 127.5
    np.testing.assert_allclose(to_pixels(x, "float"), exact.repeat(3, -1), atol=1e-5)
    np.testing.assert_array_equal(to_pixels(x, "uint8"), np.round(exact).repeat(3, -1))
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    as_floats = (2 * levels.astype(np.float32) - 255) / 255
    for rounding in ("uint8", "float"):
        np.testing.assert_allclose(to_pixels(as_floats, rounding), to_pixels(levels, rounding), atol=1e-4)


def test_a_network_reads_pixels_less_the_mean_and_over_the_deviation():
    network = linear_network(size=32, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    images = RNG.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        network.prepare(images), (images - np.float32([1, 2, 3])) / np.float32([2, 4, 8]), rtol=1e-6
    )


def test_an_unknown_one_is_refused():
    with pytest.raises(
        InputError, match="resize 'area' is not known: choose one of torch_fidelity, ddpm, clean_fid, pyt"
    ):
        check_resize("area")
