"""Schedules in steps against their formulas, and the figures of the papers and their codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import (
    constant,
    from_betas,
    jsd,
    linear,
    q_sample,
    rescale_zero_terminal_snr,
    scaled_linear,
    sigmoid,
    squaredcos_cap_v2,
    warmup10,
    warmup50,
)
from marble.errors import InputError


def test_linear_has_the_reference_tables():
    # Ho et al. 2020, section 4: T = 1000, 1e-4 to 0.02; the products in float64.
    schedule = linear()
    assert schedule.num_train_timesteps == 1000
    np.testing.assert_allclose(schedule.betas[[0, -1]], [1e-4, 0.02], rtol=1e-15)
    expected = [0.9999, 0.07858724288, 4.035829765e-05]
    np.testing.assert_allclose(schedule.alphas_cumprod[[0, 499, 999]], expected, rtol=1e-9)
    np.testing.assert_allclose(schedule.sigma[-1] / schedule.alpha[-1], 157.407, rtol=1e-5)
    log_snr = 2 * np.log(schedule.alpha / schedule.sigma)
    np.testing.assert_allclose(log_snr[[0, -1]], [9.21024, -10.11767], atol=5e-6)


def test_tables_are_those_of_the_products():
    betas = np.random.default_rng(0).uniform(1e-6, 0.5, 40)
    schedule = from_betas(betas)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-13)
    np.testing.assert_allclose(schedule.alpha**2 + schedule.sigma**2, 1, rtol=1e-14)


def test_small_noise_does_not_cancel():
    # 1 - prod(1 - 1e-12) loses four digits; the table must not.
    schedule = from_betas(np.full(4, 1e-12))
    np.testing.assert_allclose(schedule.sigma**2, 1e-12 * np.arange(1, 5), rtol=1e-11)


def test_levels_and_the_clean_one_before_them():
    schedule = linear(10)
    t = jnp.array([0, 1, 9])
    level, before = schedule.level(t), schedule.previous_level(t)
    np.testing.assert_allclose(level.alpha, schedule.alpha[[0, 1, 9]].astype(np.float32))
    np.testing.assert_allclose(before.alpha, np.array([1, schedule.alpha[0], schedule.alpha[8]], np.float32))
    np.testing.assert_allclose(before.sigma, np.array([0, schedule.sigma[0], schedule.sigma[8]], np.float32))


def test_a_schedule_can_be_an_argument_of_a_jitted_function():
    schedule = linear(10)
    level = jax.jit(lambda schedule, t: schedule.level(t))(schedule, 3)
    np.testing.assert_allclose(level.sigma, schedule.sigma[3], rtol=1e-7)


@pytest.mark.parametrize("betas", [[], [0.1], [1.0, 0.1], [0.1, 1.1], [0.0, 0.1], [[0.1, 0.2]], [0.1, np.nan]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(InputError, match="betas"):
        from_betas(np.array(betas))


T = 1000
LINE = np.linspace(0, 1, T)
FORMULAS = {
    "linear": (linear(), 1e-4 + (0.02 - 1e-4) * LINE),
    "scaled_linear": (scaled_linear(), (np.sqrt(0.00085) + (np.sqrt(0.012) - np.sqrt(0.00085)) * LINE) ** 2),
    "constant": (constant(), np.full(T, 0.02)),
    "jsd": (jsd(), 1 / (T - np.arange(T))),
    "warmup10": (warmup10(), np.minimum(1e-4 + (0.02 - 1e-4) * np.arange(T) / 99, 0.02)),
    "warmup50": (warmup50(), np.minimum(1e-4 + (0.02 - 1e-4) * np.arange(T) / 499, 0.02)),
    "sigmoid": (sigmoid(), 1e-4 + (0.02 - 1e-4) / (1 + np.exp(6 - 12 * LINE))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_betas_are_their_formulas(name):
    schedule, betas = FORMULAS[name]
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-12)
    assert (np.diff(schedule.log_snr) < 0).all()


def test_jsd_keeps_a_share_that_falls_by_one_t_th():
    np.testing.assert_allclose(jsd(8).alphas_cumprod, 1 - np.arange(1, 9) / 8, atol=1e-15)


def test_four_thousand_linear_steps_have_improved_diffusion_s_end():
    # The betas of Ho et al. scaled by 1000/T.
    table = linear(4000, 1e-4 / 4, 0.02 / 4).alphas_cumprod
    np.testing.assert_allclose(table[-1], 4.246652276e-05, rtol=1e-9)


def test_the_cosine_schedule_has_improved_diffusion_s_figures():
    short, long = squaredcos_cap_v2(1000), squaredcos_cap_v2(4000)
    np.testing.assert_allclose([short.betas[0], short.alphas_cumprod[-1]], [4.128422482e-05, 2.4287669e-09], rtol=1e-7)
    np.testing.assert_allclose([long.betas[0], long.alphas_cumprod[-1]], [9.865818814e-06, 1.51798e-10], rtol=1e-5)
    assert (short.betas == 0.999).sum() == 1


def test_stable_diffusion_s_schedule_has_its_figures():
    table = scaled_linear().alphas_cumprod
    np.testing.assert_allclose(table[[0, 499, 999]], [0.99915, 0.2776696505, 0.004660098513], rtol=1e-9)


def test_rescaling_ends_in_pure_noise_and_keeps_the_start():
    schedule = scaled_linear()
    rescaled = rescale_zero_terminal_snr(schedule)
    assert rescaled.alpha[-1] == 0 and rescaled.sigma[-1] == 1 and rescaled.betas[-1] == 1
    np.testing.assert_allclose(rescaled.alpha[0], schedule.alpha[0], rtol=1e-12)
    np.testing.assert_allclose(
        np.diff(rescaled.alpha) / np.diff(schedule.alpha),
        rescaled.alpha[0] / (schedule.alpha[0] - schedule.alpha[-1]),
        rtol=1e-8,
    )
    assert np.isfinite(rescaled.log_snr).all()


def test_between_steps_the_log_snr_is_interpolated(x64):
    schedule = linear()
    t = jnp.array([0.0, 7.25, 999.0])
    level = schedule.level(t)
    expected = [schedule.log_snr[0], 0.75 * schedule.log_snr[7] + 0.25 * schedule.log_snr[8], schedule.log_snr[999]]
    np.testing.assert_allclose(level.log_snr, expected, rtol=1e-10)
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-12)
    np.testing.assert_allclose(schedule.level_at(level.log_snr).t, t, atol=1e-8)
    np.testing.assert_allclose(schedule.level(jnp.array([3, 990])).sigma, schedule.level(jnp.array([3.0, 990.0])).sigma)


@pytest.mark.parametrize("t", [5000, -1, [3, 1000], 999.5])
def test_a_step_out_of_range_is_refused(t):
    with pytest.raises(InputError, match="must be between 0 and 999"):
        q_sample(linear(), jnp.zeros((2, 3)), jnp.asarray(t), jnp.zeros((2, 3)))


def test_a_known_step_inside_of_a_program_is_looked_at_too():
    t = jnp.array([3, 5000])
    with pytest.raises(InputError, match="must be between 0 and 999"):
        jax.jit(lambda x: q_sample(linear(), x, t, x))(jnp.zeros((2, 3)))
    jax.jit(lambda x: q_sample(linear(), x, jnp.minimum(t, 999), x))(jnp.zeros((2, 3)))
