"""Schedules in continuous time against their papers' formulas."""

import jax
import numpy as np
import pytest

from marble.diffusion import continuous
from marble.errors import InputError

T = np.array([0.05, 0.3, 0.5, 0.77, 0.95])
SCHEDULES = {
    "cosine": continuous.cosine(),
    "edm": continuous.edm(),
    "rectified_flow": continuous.rectified_flow(),
    "from_curve": continuous.from_curve(lambda t: 13.3 - 18.3 * t),
}
PATHS = {
    "cosine": lambda level: level.alpha**2 + level.sigma**2,
    "edm": lambda level: level.alpha,
    "rectified_flow": lambda level: level.alpha + level.sigma,
    "from_curve": lambda level: level.alpha**2 + level.sigma**2,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_lie_on_the_path_and_fall_with_t(name, x64):
    schedule = SCHEDULES[name]
    assert schedule.num_train_timesteps is None
    level = schedule.level(T)
    np.testing.assert_allclose(PATHS[name](level), 1, rtol=1e-12)
    np.testing.assert_allclose(level.log_snr, schedule.log_snr(T), rtol=1e-9)
    assert (np.diff(level.log_snr) < 0).all() and (np.diff(level.t) > 0).all()
    np.testing.assert_allclose(schedule.level_at(level.log_snr).t, level.t, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(schedule.level)(T).sigma, level.sigma, rtol=1e-12)


def test_cosine_is_a_quarter_turn(x64):
    wide = continuous.cosine(-60.0, 60.0)
    np.testing.assert_allclose(wide.level(T).alpha, np.cos(np.pi / 2 * T), rtol=1e-9)
    np.testing.assert_allclose(wide.level(T).t, 1000 * T, rtol=1e-9)
    np.testing.assert_allclose(continuous.cosine(-15.0, 15.0).log_snr(np.array([0.0, 1.0])), [15, -15], rtol=1e-9)


def test_edm_s_sigma_is_log_normal(x64):
    level = continuous.edm().level(np.array([0.15865525393145707, 0.5, 0.8413447460685429]))  # minus one, 0, plus one
    np.testing.assert_allclose(level.sigma, np.exp([-2.4, -1.2, 0.0]), rtol=1e-9)
    np.testing.assert_allclose(level.t, np.array([-2.4, -1.2, 0.0]) / 4, atol=1e-9)
    assert np.isfinite(continuous.edm().level(np.array([0.0, 1.0])).sigma).all()


def test_rectified_flow_is_the_straight_line(x64):
    level = continuous.rectified_flow(1e-6, 1 - 1e-6).level(T)
    np.testing.assert_allclose([level.alpha, level.sigma], [1 - T, T], atol=2e-6)
    np.testing.assert_allclose(level.t, 1000 * T, rtol=1e-4)


def test_a_curve_tells_the_model_how_far_it_is(x64):
    level = continuous.from_curve(lambda t: 13.3 - 18.3 * t**2).level(T)
    np.testing.assert_allclose(level.t, 1000 * T**2, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: continuous.cosine(5.0, -5.0), "log_snr_min=5.0 must be below"),
        (lambda: continuous.edm(p_std=0.0), "p_std=0.0 must be above 0"),
        (lambda: continuous.rectified_flow(0.5, 0.2), "t_min=0.5 and t_max=0.2"),
    ],
)
def test_impossible_ends_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
