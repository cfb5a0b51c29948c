"""p(x_0 | x_t): the Gaussian's mass of each level."""

import numpy as np
import pytest
from scipy import stats

from marble.compression.decoder import ESCAPE, level_probabilities, pixel_bits


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_level_has_the_gaussian_s_mass_around_it(levels):
    mean, deviation = np.array([-1.0, -0.3, 0.0, 0.99]), np.array([0.01, 0.5, 2.0, 1e-4])
    found = level_probabilities(mean, deviation, levels)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    width = 2 / (levels - 1)
    for row, m, s in zip(found, mean, deviation, strict=True):
        for level in (0, levels // 2, levels - 1):
            value = -1 + level * width
            low = -np.inf if level == 0 else value - width / 2
            high = np.inf if level == levels - 1 else value + width / 2
            mass = stats.norm.cdf(high, m, s) - stats.norm.cdf(low, m, s)
            assert row[level] == pytest.approx((1 - ESCAPE) * mass + ESCAPE / levels, abs=1e-12)


def test_the_bits_of_pixels_are_those_of_their_levels():
    rng = np.random.default_rng(0)
    mean, deviation = rng.uniform(-1, 1, 500), np.exp(rng.normal(-2, 2, 500))
    pixels = rng.integers(0, 17, 500)
    expected = -np.log2(level_probabilities(mean, deviation, 17)[np.arange(500), pixels])
    np.testing.assert_allclose(pixel_bits(pixels, mean, deviation, 17), expected, rtol=1e-9)
    assert pixel_bits(np.array([16]), np.array([-1.0]), np.array([1e-4]), 17)[0] < 15  # far off, and still coded
