"""The learning rate over the steps, against its formula."""

import numpy as np
import pytest

from marble.errors import InputError
from marble.training.optimizer import warmup_decay


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_it_rises_to_its_value_and_stays(warmup_steps):
    rate = warmup_decay(2.0, warmup_steps)
    steps = np.arange(20)
    expected = 2.0 * np.minimum(steps / warmup_steps, 1) if warmup_steps else np.full(20, 2.0)
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_it_falls_along_half_a_cosine_to_a_hundredth(warmup_steps):
    rate, end = warmup_decay(2.0, warmup_steps, 15), 15
    steps = np.arange(warmup_steps, end + 5)
    cosine = 0.5 + 0.5 * np.cos(np.pi * np.minimum((steps - warmup_steps) / (end - warmup_steps), 1))
    np.testing.assert_allclose([rate(step) for step in steps], 0.02 + 1.98 * cosine, atol=1e-6)


@pytest.mark.parametrize("values", [(0.0,), (float("inf"),), (1.0, -1), (1.0, 5, 5), (1.0, 0, 0)])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(InputError, match="optimizer"):
        warmup_decay(*values)
