"""Time grids against the figures of the codes that made them known."""

import numpy as np
import pytest

from marble.diffusion import linear, rectified_flow
from marble.errors import InputError
from marble.sampling import levels, timesteps


def test_linspace_is_the_respacing_of_improved_diffusion():
    # space_timesteps(4000, "100") and (1000, "250").
    rising = timesteps(4000, 100)[::-1]
    assert [*rising[:4], *rising[-3:]] == [0, 40, 81, 121, 3918, 3959, 3999]
    rising = timesteps(1000, 250)[::-1]
    assert [*rising[:4], *rising[-3:]] == [0, 4, 8, 12, 991, 995, 999]


def test_spacings_of_fifty_steps():
    # Lin et al. 2024, table 2, counted from 0.
    ends = {name: timesteps(1000, 50, name)[[0, 1, -2, -1]].tolist() for name in ("leading", "trailing", "linspace")}
    assert ends == {"leading": [980, 960, 20, 0], "trailing": [999, 979, 39, 19], "linspace": [999, 979, 20, 0]}


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_the_full_grid_is_every_step(spacing):
    np.testing.assert_array_equal(timesteps(30, 30, spacing), np.arange(30)[::-1])
    for num_steps in range(2, 31):
        assert (np.diff(timesteps(30, num_steps, spacing)) < 0).all()


def test_one_step_starts_from_the_noise():
    assert timesteps(1000, 1).tolist() == [999]
    assert timesteps(1000, 1, "trailing").tolist() == [999]


def test_levels_end_clean_and_are_padded_clean():
    schedule = linear()
    grid = levels(schedule, 4, length=10)
    assert grid.alpha.shape == grid.sigma.shape == grid.t.shape == (11,)
    np.testing.assert_array_equal(grid.alpha[4:], 1)
    np.testing.assert_array_equal(grid.sigma[4:], 0)
    np.testing.assert_allclose(grid.sigma[:4], schedule.sigma[timesteps(1000, 4)], rtol=1e-6)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_too_many_or_no_steps_are_refused(num_steps):
    with pytest.raises(InputError, match=f"{num_steps} .*between 1 and 1000"):
        timesteps(1000, num_steps)


def test_an_unknown_spacing_is_named():
    with pytest.raises(InputError, match="'even'.*linspace"):
        timesteps(1000, 10, "even")


def test_continuous_time_is_walked_evenly_and_ends_clean():
    schedule = rectified_flow(1e-3, 1 - 1e-3)
    grid = levels(schedule, 5, length=7)
    np.testing.assert_allclose(grid.sigma[:5], 1e-3 + np.linspace(1, 0, 5) * (1 - 2e-3), rtol=1e-4)
    np.testing.assert_array_equal(grid.sigma[5:], 0)
    np.testing.assert_array_equal(grid.alpha[5:], 1)
    assert all(table.shape == (8,) and table.dtype == np.float32 for table in grid)
    with pytest.raises(InputError, match="in continuous time give their number"):
        levels(schedule)
