"""Nearest neighbours beside all distances written out."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from marble.errors import InputError
from marble.metrics import nearest

RNG = np.random.default_rng(0)
QUERY, POINTS = RNG.normal(size=(40, 5)), RNG.normal(size=(30, 5))


@pytest.fixture(params=[2048, 7], ids=["one block", "many blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr("marble.metrics.rows.blocks.__defaults__", (request.param,))
    monkeypatch.setattr("marble.metrics.neighbours.BLOCK", request.param)


@pytest.mark.parametrize("k", [1, 3, 30])
def test_of_other_points(block, k):
    distances = cdist(QUERY, POINTS)
    found = nearest(QUERY, POINTS, k)
    np.testing.assert_allclose(found.distances, np.sort(distances, 1)[:, :k], rtol=1e-14)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, 1)[:, :k])


def test_of_the_others_of_a_set(block):
    distances = cdist(QUERY, QUERY) + np.diag(np.full(40, np.inf))
    found = nearest(QUERY, k=4)
    np.testing.assert_allclose(found.distances, np.sort(distances, 1)[:, :4], rtol=1e-14)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, 1)[:, :4])


def test_copies_are_at_0_and_near_copies_where_they_are(block):
    """|x|² + |y|² - 2 x·y of these is rounding alone."""
    points = (1e3 + RNG.normal(size=(25, 600))).astype(np.float32)
    steps = np.arange(25)[:, None] * 1e-8
    found = nearest(points + steps * np.eye(25, 600), points)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(25))
    np.testing.assert_allclose(found.distances, steps, atol=1e-12)
    twice = np.concatenate([points, points])
    np.testing.assert_array_equal(nearest(twice).distances, 0)


def test_pictures_of_bytes(block):
    images = RNG.integers(0, 256, (20, 4, 4, 3), np.uint8)
    distances = cdist(*[images.reshape(20, -1).astype(int)] * 2)
    np.testing.assert_allclose(nearest(images, images, 2).distances, np.sort(distances, 1)[:, :2], rtol=1e-14)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: nearest(QUERY, k=40), "images are 40, and 41 is the least"),
        (lambda: nearest(QUERY, POINTS, 31), "the images to look among are 30, and 31 is the least"),
        (lambda: nearest(QUERY, POINTS, 0), "k=0 must be at least 1"),
        (lambda: nearest(QUERY, POINTS[:, :2]), "5 dimensions and the images to look among 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
