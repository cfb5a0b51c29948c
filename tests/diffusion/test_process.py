"""Forward process and posteriors against their definitions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import ancestral_step, from_betas, linear, p_posterior, q_posterior, q_sample, q_step
from marble.diffusion.weighting import reverse_variance
from marble.errors import InputError
from marble.typing import Level, Prediction

CLEAN = Level(0, np.float64(1), np.float64(0))


def rows(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def test_q_sample_is_equation_4(x64):
    schedule, x_0, noise = linear(), rows(3, 4, 4, 2), rows(3, 2, 4, 4).reshape(3, 4, 4, 2)
    t = jnp.array([0, 500, 999])
    a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.array(t)].reshape(3, 1, 1, 1)
    np.testing.assert_allclose(q_sample(schedule, x_0, t, noise), np.sqrt(a) * x_0 + np.sqrt(1 - a) * noise, rtol=1e-12)


def test_all_steps_in_a_row_are_q_sample(x64):
    # Eq. 2 applied T times to N(m, v): m -> sqrt(1 - beta) m, v -> (1 - beta) v + beta. Reading off both with
    # noise 0, and with unit noise in one step at a time, gives the closed form's mean and variance (eq. 4).
    schedule = linear(50, 1e-3, 0.3)
    x_0 = jnp.ones((1, 1))

    def chain(x, noisy_step):
        for t in range(50):
            x = q_step(schedule, x, t, jnp.full((1, 1), float(t == noisy_step)))
        return float(x[0, 0])

    mean = chain(x_0, None)
    variance = sum(chain(jnp.zeros((1, 1)), step) ** 2 for step in range(50))
    np.testing.assert_allclose(mean, q_sample(schedule, x_0, 49, jnp.zeros((1, 1)))[0, 0], rtol=1e-12)
    np.testing.assert_allclose(variance, q_sample(schedule, 0 * x_0, 49, x_0)[0, 0] ** 2, rtol=1e-12)


@pytest.mark.parametrize("t", [1, 2, 500, 999])
def test_q_posterior_between_neighbours_is_equations_6_and_7(t, x64):
    schedule, x_0, x_t = linear(), rows(2, 5), rows(5, 2).reshape(2, 5)
    beta, a = schedule.betas, np.cumprod(1 - schedule.betas)
    mean = np.sqrt(a[t - 1]) * beta[t] / (1 - a[t]) * x_0 + np.sqrt(1 - beta[t]) * (1 - a[t - 1]) / (1 - a[t]) * x_t
    variance = (1 - a[t - 1]) / (1 - a[t]) * beta[t]
    found = q_posterior(x_0=x_0, x_t=x_t, level_t=schedule.level(t), level_s=schedule.previous_level(t))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-9)


def test_q_posterior_is_bayes_rule_on_a_grid(x64):
    # q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0), for levels that are not neighbours too.
    schedule, x_0, x_t = linear(), 0.7, -0.4
    t, s = 600, 350
    (a_t, v_t), (a_s, v_s) = ((schedule.alpha[i], schedule.sigma[i] ** 2) for i in (t, s))
    x_s = np.linspace(-12, 12, 200_001)
    kept = a_t / a_s
    log_p = -((x_t - kept * x_s) ** 2) / (2 * (v_t - kept**2 * v_s)) - (x_s - a_s * x_0) ** 2 / (2 * v_s)
    p = np.exp(log_p - log_p.max())
    mean = (p * x_s).sum() / p.sum()
    variance = (p * (x_s - mean) ** 2).sum() / p.sum()
    found = q_posterior(
        x_0=jnp.full((1, 1), x_0),
        x_t=jnp.full((1, 1), x_t),
        level_t=schedule.level(t),
        level_s=schedule.level(s),
    )
    np.testing.assert_allclose(found.mean[0, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-9)


def test_q_posterior_at_the_clean_level_is_x_0(x64):
    schedule, x_0, x_t = linear(), rows(2, 3), rows(3, 2).reshape(2, 3)
    found = q_posterior(x_0=x_0, x_t=x_t, level_t=schedule.level(0), level_s=CLEAN)
    np.testing.assert_array_equal(found.mean, x_0)
    assert found.variance == 0


def test_float32_is_exact_where_one_minus_a_ratio_cancels():
    schedule, t = linear(), np.arange(1, 1000)
    x = jnp.zeros((999, 1))
    found = q_posterior(x_0=x, x_t=x, level_t=schedule.level(t), level_s=schedule.previous_level(t)).variance
    exact = reverse_variance(schedule, "fixed_small")[1:]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0], exact, rtol=1e-4)
    np.testing.assert_allclose(found[:10, 0], exact[:10], rtol=3e-6)
    a = schedule.alphas_cumprod.astype(np.float32)
    textbook = (1 - a[:-1]) / (1 - a[1:]) * (1 - a[1:] / a[:-1])
    assert np.abs(textbook[:10] / exact[:10] - 1).max() > 1e-4


def test_the_two_fixed_variances_between_neighbours(x64):
    schedule, x = linear(), rows(1, 2)
    a = np.cumprod(1 - schedule.betas)
    levels = dict(level_t=schedule.level(7), level_s=schedule.previous_level(7))
    small, large = (
        p_posterior(Prediction(x, x), x_t=x, variance_type=name, **levels).variance
        for name in ("fixed_small", "fixed_large")
    )
    np.testing.assert_allclose(small, schedule.betas[7] * (1 - a[6]) / (1 - a[7]), rtol=1e-9)
    np.testing.assert_allclose(large, schedule.betas[7], rtol=1e-9)


def test_reference_posterior_variances():
    # Ho et al.'s tables for the linear schedule: beta~ at steps 0 to 2, log beta~_1 as first log-variance.
    small = reverse_variance(linear(), "fixed_small")
    levels = dict(level_t=linear().level(0), level_s=linear().previous_level(0))
    assert q_posterior(x_0=jnp.zeros(1), x_t=jnp.ones(1), **levels).variance == 0
    np.testing.assert_allclose(small[1:3], [5.45318766e-05, 8.54891152e-05], rtol=1e-8)
    np.testing.assert_allclose(np.log(reverse_variance(linear(), "fixed_large")[0]), -9.816725135, rtol=1e-9)


def test_ancestral_step_is_algorithm_2(x64):
    schedule, x_t, eps, noise = linear(), rows(2, 3), rows(3, 2).reshape(2, 3), rows(6, 1).reshape(2, 3)
    t = 321
    beta, a = schedule.betas[t], np.cumprod(1 - schedule.betas)[t]
    expected = (x_t - beta / np.sqrt(1 - a) * eps) / np.sqrt(1 - beta) + np.sqrt(beta) * noise
    x_0 = (x_t - np.sqrt(1 - a) * eps) / np.sqrt(a)
    found = ancestral_step(
        Prediction(x_0, eps),
        x_t=x_t,
        level_t=schedule.level(t),
        level_s=schedule.previous_level(t),
        noise=noise,
        variance_type="fixed_large",
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_last_ancestral_step_adds_no_noise(variance_type):
    schedule, x = from_betas(np.array([0.1, 0.2])), jnp.ones((2, 3))
    levels = dict(level_t=schedule.level(0), level_s=schedule.previous_level(0))
    found = ancestral_step(
        Prediction(0.5 * x, x), x_t=x, noise=jnp.full((2, 3), 1e3), variance_type=variance_type, **levels
    )
    np.testing.assert_array_equal(found, 0.5 * x)


def test_formulas_vmap_and_jit_alike():
    schedule, x_0, noise, t = linear(), rows(4, 3, 3), rows(3, 4, 3).reshape(4, 3, 3), jnp.array([0, 10, 500, 999])
    together = q_sample(schedule, x_0, t, noise)
    one_by_one = jax.vmap(lambda *row: q_sample(schedule, *row))(x_0, t, noise)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-6)
    np.testing.assert_allclose(together, jax.jit(q_sample)(schedule, x_0, t, noise), rtol=1e-6)


def test_an_unknown_variance_type_is_named():
    x, level = jnp.ones((1, 2)), linear(10).level(3)
    with pytest.raises(InputError, match="'middling'.*fixed_small"):
        p_posterior(Prediction(x, x), x_t=x, level_t=level, level_s=linear(10).level(2), variance_type="middling")
