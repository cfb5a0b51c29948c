"""Resizing as matrices: beside Pillow, TensorFlow 1's formula pixel by pixel, and functions that they must keep."""

import numpy as np
import pytest
from PIL import Image

from marble.models.interpolation import antialiased_cubic_axis, corner_linear_axis, cubic, cubic_axis, linear_axis

SIZES = [(32, 299), (299, 32), (64, 224), (37, 16), (7, 7), (1, 5), (5, 1), (2, 3)]
AXES = [corner_linear_axis, linear_axis, cubic_axis, antialiased_cubic_axis]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("size, new", SIZES)
def test_a_constant_image_stays_as_it_is(axis, size, new):
    matrix = axis(size, new)
    assert matrix.shape == (new, size) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("axis", AXES)
def test_the_same_size_is_the_same_image(axis):
    np.testing.assert_allclose(axis(9, 9), np.eye(9), atol=1e-12)


@pytest.mark.parametrize("size, new", SIZES)
def test_tensorflow_1(size, new):
    """Its kernel, one output pixel at a time in float32 (tensorflow/core/kernels/resize_bilinear_op.cc)."""
    image = np.random.default_rng(0).uniform(0, 255, size).astype(np.float32)
    expected = []
    for i in range(new):
        at = np.float32(i) * np.float32(size / new)
        low = int(np.floor(at))
        high = min(low + 1, size - 1)
        expected.append(image[low] + (image[high] - image[low]) * (at - np.float32(low)))
    np.testing.assert_allclose(corner_linear_axis(size, new) @ image, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size, new", SIZES)
def test_pillow(size, new):
    pixels = np.random.default_rng(1).uniform(0, 255, (size, size + 1)).astype(np.float32)
    expected = np.asarray(Image.fromarray(pixels).resize((new + 2, new), Image.Resampling.BICUBIC))
    found = antialiased_cubic_axis(size, new) @ pixels @ antialiased_cubic_axis(size + 1, new + 2).T
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


def test_a_slope_is_kept_where_pixels_are_not_cut_at_the_ends():
    """Of pixel centres: output i lies at (i + 1/2) size / new - 1/2."""
    at = (np.arange(16) + 0.5) * 8 / 16 - 0.5
    inner = (at > 0) & (at < 7)
    np.testing.assert_allclose((linear_axis(8, 16) @ np.arange(8))[inner], at[inner], atol=1e-12)
    at = (np.arange(24) + 0.5) * 8 / 24 - 0.5
    inner = (at > 2) & (at < 5)
    np.testing.assert_allclose((antialiased_cubic_axis(8, 24) @ np.arange(8))[inner], at[inner], atol=1e-12)


def test_the_linear_one_reads_two_pixels_about_its_place():
    np.testing.assert_allclose(linear_axis(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(linear_axis(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_keys_kernel():
    """Keys 1981: 1 at 0 and 0 at other whole numbers, smooth where its pieces meet, and for -1/2 exact for squares."""
    for a in (-0.5, -0.75):
        np.testing.assert_allclose(cubic(np.arange(-3, 4), a), [0, 0, 0, 1, 0, 0, 0], atol=1e-12)
        for joint in (1.0, 2.0):
            left, right = (np.diff(cubic(joint + side * np.array([2e-6, 1e-6]), a)) / -side for side in (-1, 1))
            np.testing.assert_allclose(left, right, atol=1e-10)
    at = 0.3
    taps = np.arange(-1, 3)
    np.testing.assert_allclose((cubic(taps - at, -0.5) * taps**2).sum(), at**2, atol=1e-12)


def test_places_may_be_of_a_grid_a_little_larger():
    """With scale, output i lies at (i + 1/2) scale - 1/2: here at whole pixels, which a cubic gives back."""
    values = np.random.default_rng(2).normal(size=9)
    found = cubic_axis(9, 4, scale=2.0) @ values  # at 1/2, 5/2, ...
    between = [
        (cubic(np.arange(-1, 3) - 0.5, -0.75) * values[np.clip(np.arange(-1, 3) + i, 0, 8)]).sum() for i in (0, 2, 4, 6)
    ]
    np.testing.assert_allclose(found, between, atol=1e-12)
