"""The nearest-neighbour test where its answer is known."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from marble.errors import InputError
from marble.metrics import nearest_neighbour_accuracy


def draws(seed, n=400, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, 8)) * scale


def test_equal_distributions_are_a_coin():
    accuracies = [nearest_neighbour_accuracy(draws(2 * k), draws(2 * k + 1)) for k in range(10)]
    assert abs(np.mean(accuracies) - 0.5) < 0.03


def test_far_sets_are_told_apart_and_copies_are_not():
    assert nearest_neighbour_accuracy(draws(0), draws(1) + 100) == 1
    assert nearest_neighbour_accuracy(draws(0), draws(0)) == 0
    assert nearest_neighbour_accuracy(draws(0), 0.1 * draws(1)) > 0.6  # collapsed: each finds the blurred ones


def test_ties_share_the_vote():
    one, other = np.zeros((2, 1)), np.zeros((2, 1))
    assert nearest_neighbour_accuracy(one, other) == pytest.approx(1 / 3)  # of three at distance 0, one is its own kind


def test_it_agrees_with_scikit_learn():
    one, other = draws(3), draws(4, scale=1.3)
    points, is_one = np.concatenate([one, other]), np.arange(800) < 400
    neighbours = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points, return_distance=False)[:, 1]
    assert nearest_neighbour_accuracy(one, other) == (is_one[neighbours] == is_one).mean()


def test_blocks_change_nothing(monkeypatch):
    one, other = np.round(draws(5)), np.round(draws(6))  # with ties
    whole = nearest_neighbour_accuracy(one, other)
    monkeypatch.setattr("marble.metrics.two_sample.NUMBERS", 800 * 7)
    assert nearest_neighbour_accuracy(one, other) == whole


def test_sets_of_other_dimensions_are_refused():
    with pytest.raises(InputError, match="8 dimensions and the second images 3"):
        nearest_neighbour_accuracy(draws(0), draws(1)[:, :3])
