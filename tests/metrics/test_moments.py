"""Moments of a stream beside numpy's of the whole."""

import numpy as np
import pytest

from marble.errors import InputError
from marble.metrics import Moments

RNG = np.random.default_rng(0)
# Far from 0, where sums of squares would have lost all digits.
FEATURES = 1e4 + RNG.normal(size=(5000, 7)) @ RNG.normal(size=(7, 7))


def assert_equal(moments, features):
    assert moments.num == len(features)
    np.testing.assert_allclose(moments.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 3], [2500], [10, 4990], [0, 700, 700]])
def test_merged_parts_equal_the_whole(cuts):
    parts = [Moments.of(part) for part in np.split(FEATURES, cuts)]
    forward, backward = Moments.none(7), Moments.none(7)
    for part in parts:
        forward, backward = forward.merged(part), part.merged(backward)
    assert_equal(forward, FEATURES)
    assert_equal(backward, FEATURES)


def test_a_stream_of_batches():
    moments = Moments.none(7)
    for start in range(0, 5000, 333):
        moments = moments.add(FEATURES[start : start + 333])
    assert_equal(moments, FEATURES)


def test_float32_is_summed_in_float64_and_images_are_flattened():
    images = (255 * RNG.random((3000, 2, 2, 3))).astype(np.float32)
    assert_equal(Moments.of(images), images.reshape(3000, 12).astype(np.float64))
    pixels = images.astype(np.uint8)
    assert_equal(Moments.of(pixels), pixels.reshape(3000, 12).astype(np.float64))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Moments.of(np.ones((1, 3))).covariance, "at least 2 images: there are 1"),
        (lambda: Moments.of(np.ones((4, 3))).add(np.ones((4, 2))), "have 3 and 2 dimensions"),
        (lambda: Moments.of(np.where(np.eye(3), [np.nan, 1, 1], 0)), "row 0 has NaN or infinity"),
        (lambda: Moments.of(np.where(np.arange(6000)[:, None] == 5001, np.inf, 0.0)), "row 5001 has NaN"),
        (lambda: Moments.of(np.ones(3)), r"shape \[3\]: give a row"),
        (lambda: Moments.of(np.ones((3, 0))), r"shape \[3, 0\]"),
        (lambda: Moments.of(np.full((3, 2), "a")), "dtype <U1: give real numbers"),
        (lambda: Moments.of(np.ones((3, 2), complex)), "dtype complex128"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
