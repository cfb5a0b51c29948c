"""The example runs, and does what it says."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from marble.metrics import nearest_neighbour_accuracy

TOY = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "toy_2d.py"))


@pytest.mark.slow
def test_the_toy_program_learns_its_spiral():
    points, _ = TOY["main"]()
    fresh = TOY["spiral"](jax.random.key(123), 1000)
    assert points.shape == (1000, 2)
    assert 0.4 < nearest_neighbour_accuracy(np.asarray(points), np.asarray(fresh)) < 0.62
