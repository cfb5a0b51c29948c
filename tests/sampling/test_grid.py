"""Time grids against the figures of the codes that made them known."""

import re

import jax
import numpy as np
import pytest

from marble.diffusion import cosine, edm, linear, rectified_flow, rescale_zero_terminal_snr, scaled_linear
from marble.errors import InputError
from marble.sampling import levels, section_timesteps, times, timesteps


def test_sections_are_the_respacing_of_improved_diffusion():
    # space_timesteps(300, [10, 15, 20]): 45 steps that start 0, 11, 22.
    steps = section_timesteps(300, [10, 15, 20])[::-1]
    assert steps[:3].tolist() == [0, 11, 22] and len(steps) == 45
    np.testing.assert_array_equal(steps[[9, 10, 24, 25, 44]], [99, 100, 199, 200, 299])
    schedule = linear(300)
    grid = levels(schedule, [10, 15, 20], length=50)
    np.testing.assert_array_equal(grid.t[:45], steps[::-1])
    np.testing.assert_allclose(grid.sigma[:45], schedule.sigma[steps[::-1]], rtol=1e-6)
    assert (grid.sigma[45:] == 0).all() and len(grid.t) == 51
    for counts, message in (
        ([10, 101], "101 sampling steps"),
        ([0, 3], "0 sampling steps"),
        ([2.5, 1], "whole number"),
    ):
        with pytest.raises(InputError, match=message):
            section_timesteps(200, counts)


def test_linspace_is_the_respacing_of_improved_diffusion():
    # space_timesteps(4000, "100") and (1000, "250").
    rising = timesteps(4000, 100)[::-1]
    assert [*rising[:4], *rising[-3:]] == [0, 40, 81, 121, 3918, 3959, 3999]
    rising = timesteps(1000, 250)[::-1]
    assert [*rising[:4], *rising[-3:]] == [0, 4, 8, 12, 991, 995, 999]


def test_ddim25_is_the_spacing_leading():
    # "ddim25" takes every 40th of 1000 steps from 0 up, which Song, Meng & Ermon 2021 did, and never the last one.
    assert timesteps(1000, 25, "leading")[::-1].tolist() == list(range(0, 961, 40))


def test_spacings_of_fifty_steps():
    # Lin et al. 2024, table 2, counted from 0.
    ends = {name: timesteps(1000, 50, name)[[0, 1, -2, -1]].tolist() for name in ("leading", "trailing", "linspace")}
    assert ends == {"leading": [980, 960, 20, 0], "trailing": [999, 979, 39, 19], "linspace": [999, 979, 20, 0]}


def test_leading_goes_by_the_whole_stride():
    # diffusers: (np.arange(0, n) * (T // n)).round(), here with a T that n does not divide.
    assert timesteps(1000, 30, "leading")[[0, 1, -1]].tolist() == [29 * 33, 28 * 33, 0]
    assert timesteps(1000, 30, "trailing")[[0, 1, 2, -1]].tolist() == [999, 966, 932, 32]


@pytest.mark.parametrize(
    ("schedule", "arguments", "warning"),
    [
        (linear(), (1, "leading"), "starts at t=0, where 100 % of the image is left, .* trailing or linspace"),
        (linear(), (2, "leading"), "starts at t=500, where 28 % of the image is left"),
        (linear(), (3, "leading"), None),  # 666: 11 %
        (linear(), (1, "trailing"), None),
        (linear(), (1, "linspace"), None),
        (linear(100), (5, "linspace"), None),  # the schedule has no noisier level
        (scaled_linear(), (20, "leading"), None),  # Stable Diffusion's
        (cosine(), (1, "leading"), "starts at t=0, where 100 %"),
        (cosine(), (4, "leading"), "starts at t=750, where 38 %"),
        (edm(), (5, "karras"), None),
        (rescale_zero_terminal_snr(linear()), (5, "linspace"), None),
    ],
)
def test_a_grid_that_starts_where_an_image_is_left_is_warned_of(schedule, arguments, warning, caplog):
    levels(schedule, *arguments)
    assert bool(caplog.messages) == (warning is not None)
    if warning:
        assert re.search(warning, caplog.messages[0])


def test_a_sigma_max_that_is_too_low_is_warned_of(caplog):
    levels(linear(), 5, "karras", sigma_max=1.0)
    assert re.search("where 71 % of the image is left.*: raise sigma_max", caplog.messages[0])


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


def test_steps_offset_is_stable_diffusions():
    # Rombach et al. 2022: 50 steps from 981 to 1.
    assert timesteps(1000, 50, "leading", steps_offset=1)[[0, -1]].tolist() == [981, 1]
    with pytest.raises(InputError, match="steps_offset=500 leads to step 1480"):
        timesteps(1000, 50, "leading", steps_offset=500)


EDM_SIGMAS = (
    "80 57.585985 40.785574 28.374585 19.352453 12.910082 8.400935 5.315195 3.256822 1.923340 1.088171 0.585348 "
    "0.296442 0.139516 0.059947 0.022935 0.007528 0.002 0"
)


def test_karras_is_the_grid_of_edm():
    # Karras et al. 2022, 18 steps.
    grid = levels(edm(), 18, "karras", sigma_min=0.002, sigma_max=80.0)
    np.testing.assert_allclose(grid.sigma, [float(sigma) for sigma in EDM_SIGMAS.split()], rtol=1e-6, atol=5e-7)
    np.testing.assert_array_equal(grid.alpha, 1)
    np.testing.assert_allclose(grid.t[:-1], np.log(grid.sigma[:-1]) / 4, rtol=1e-5)


@pytest.mark.parametrize("schedule", [linear(), cosine(), edm(), rectified_flow()])
def test_log_snr_is_even_and_has_the_ends_of_the_schedule(schedule):
    grid = levels(schedule, 9, "log_snr")
    log_snr = 2 * (np.log(grid.alpha[:-1]) - np.log(grid.sigma[:-1]))
    np.testing.assert_allclose(np.diff(log_snr), (log_snr[-1] - log_snr[0]) / 8, rtol=1e-4)
    last = schedule.level(999 if schedule.num_train_timesteps else 1.0)
    first = schedule.level(0 if schedule.num_train_timesteps else 0.0)
    np.testing.assert_allclose(log_snr[[0, -1]], [last.log_snr, first.log_snr], rtol=1e-3)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
def test_levels_between_steps_have_a_time_between(spacing):
    schedule = linear()
    grid = levels(schedule, 7, spacing)
    assert grid.t[0] == 999
    assert (np.diff(grid.t[:-1]) < 0).all()
    found = schedule.level(grid.t[:-1])
    np.testing.assert_allclose(found.sigma, grid.sigma[:-1], rtol=1e-4)
    # A grid made while something is traced is made all the same.
    assert jax.jit(lambda: levels(schedule, 7, spacing).sigma.sum())() == pytest.approx(grid.sigma.sum())


def test_times_are_the_timesteps_of_many():
    for spacing in ("linspace", "leading", "trailing"):
        np.testing.assert_allclose(times(5, spacing), timesteps(10**6, 5, spacing) / 10**6, atol=2e-6)
    grid = levels(rectified_flow(), 4, "trailing")
    np.testing.assert_allclose(grid.sigma, [0.999, 0.7495, 0.5, 0.2505, 0], rtol=1e-4)


@pytest.mark.parametrize(
    "schedule, arguments, message",
    [
        (linear(), (1001, "karras"), "1001 sampling steps: .*between 1 and 1000"),
        (cosine(), (0,), "0 sampling steps: give at least 1"),
        (cosine(), (), "continuous time has no number of steps of its own"),
        (cosine(), (5, "even"), "'even' is not one of"),
        (rescale_zero_terminal_snr(linear()), (5, "karras"), "give sigma_max"),
    ],
)
def test_what_a_schedule_has_no_grid_for_is_refused(schedule, arguments, message):
    with pytest.raises(InputError, match=message):
        levels(schedule, *arguments)


def test_bounds_that_are_the_wrong_way_round_are_refused():
    with pytest.raises(InputError, match=r"sigma_min=2.0 must be above 0 and below sigma_max=1.0"):
        levels(edm(), 5, "karras", sigma_min=2.0, sigma_max=1.0)


def test_continuous_time_is_walked_evenly_and_ends_clean():
    schedule = rectified_flow(1e-3, 1 - 1e-3)
    grid = levels(schedule, 5, length=7)
    np.testing.assert_allclose(grid.sigma[:5], 1e-3 + np.linspace(1, 0, 5) * (1 - 2e-3), rtol=1e-4)
    np.testing.assert_array_equal(grid.sigma[5:], 0)
    np.testing.assert_array_equal(grid.alpha[5:], 1)
    assert all(table.shape == (8,) and table.dtype == np.float32 for table in grid)


def test_without_set_alpha_to_one_the_last_level_is_that_of_step_0():
    schedule = scaled_linear(1000)
    grid = levels(schedule, 50, "leading", steps_offset=1, set_alpha_to_one=False, length=60)
    clean = levels(schedule, 50, "leading", steps_offset=1, length=60)
    for table, expected in zip(grid, clean, strict=True):
        np.testing.assert_array_equal(table[:50], expected[:50])
    least = schedule.level(np.array(0))
    for table, expected in zip(grid, least, strict=True):
        np.testing.assert_allclose(table[50:], np.full(11, expected), rtol=1e-6)
    for wrong, more in (("linspace", {}), ("leading", {"steps_offset": 0}), ("karras", {})):
        with pytest.raises(InputError, match="comes to it a step before: take the spacing leading"):
            levels(schedule, 50, wrong, set_alpha_to_one=False, **more)
    with pytest.raises(InputError, match="set_alpha_to_one=False is for schedules in steps"):
        levels(rectified_flow(), 50, set_alpha_to_one=False)
