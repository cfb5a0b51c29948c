"""The draws of t in training: where they fall, and that no expectation changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import timesteps
from marble.diffusion.timesteps import LossHistory


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_uniform_covers_all_steps_evenly():
    t = np.asarray(timesteps.uniform(keys(40_000), 10))
    counts = np.bincount(t, minlength=10)
    assert len(counts) == 10
    assert (np.abs(counts - 4000) < 5 * np.sqrt(4000 * 0.9)).all()


def test_uniform_in_continuous_time_covers_the_interval():
    t = np.asarray(timesteps.uniform(keys(10_000), None))
    assert t.min() >= 0 and t.max() < 1
    assert (np.abs(np.histogram(t, 10, (0, 1))[0] - 1000) < 5 * np.sqrt(900)).all()


def test_each_t_is_its_own_key_s():
    np.testing.assert_array_equal(timesteps.uniform(keys(8), 1000)[3:5], timesteps.uniform(keys(8)[3:5], 1000))


@pytest.mark.parametrize("total", [None, 1000, 6])
def test_low_discrepancy_has_one_t_in_each_part(total):
    for key in keys(20):
        t = np.sort(timesteps.low_discrepancy(key, jnp.arange(8), 8, total))
        parts = t if total is None else t / total
        assert (parts >= 0).all() and (parts < 1).all()
        if total != 6:
            # Of eight equal parts of the interval each has one, but where a rounding moves a t over a bound.
            assert np.abs(np.diff(parts) - 1 / 8).max() < 2e-3


def test_low_discrepancy_belongs_to_the_place_in_the_global_batch():
    key, index = jax.random.key(3), jnp.arange(16)
    whole = timesteps.low_discrepancy(key, index, 16, 1000)
    np.testing.assert_array_equal(timesteps.low_discrepancy(key, index[4::4], 16, 1000), whole[4::4])


def test_low_discrepancy_keeps_the_mean_and_lowers_the_variance():
    losses = jnp.exp(-jnp.arange(100) / 20)  # falling with t, as an ELBO's
    draws = {
        "even": jax.vmap(lambda key: losses[timesteps.low_discrepancy(key, jnp.arange(16), 16, 100)].mean())(
            keys(2000)
        ),
        "uniform": jax.vmap(lambda key: losses[timesteps.uniform(jax.random.split(key, 16), 100)].mean())(keys(2000)),
    }
    for means in draws.values():
        assert abs(means.mean() - losses.mean()) < 4 * means.std() / np.sqrt(2000)
    # Closed forms: an evenly spaced mean errs by the ends' difference over the batch, uniformly; the other by
    # 1/sqrt(B) of the losses' deviation.
    even = float(losses[0] - losses[-1]) / 16 / np.sqrt(12)
    np.testing.assert_allclose(draws["even"].std(), even, rtol=0.05)
    np.testing.assert_allclose(draws["uniform"].std(), losses.std() / 4, rtol=0.05)
    assert draws["even"].std() < draws["uniform"].std() / 3


def filled(total=8, seed=0):
    rng = np.random.default_rng(seed)
    losses = rng.exponential(np.arange(1, total + 1)[:, None], (total, timesteps.HISTORY))
    return LossHistory(jnp.asarray(losses, jnp.float32), jnp.full(total, timesteps.HISTORY))


def test_probabilities_are_the_root_mean_squares_with_a_thousandth_of_the_uniform():
    history = filled()
    root = np.sqrt((np.asarray(history.losses) ** 2).mean(1))
    np.testing.assert_allclose(history.probabilities(), 0.999 * root / root.sum() + 0.001 / 8, rtol=1e-5)


def test_importance_weighted_losses_are_uniform_ones_in_expectation(x64):
    # By enumeration: sum over t of p_t w_t f(t) = mean f, for any f; and the draw is of those p_t.
    history = filled()
    p = history.probabilities()
    weight_of = {}
    t, weights = timesteps.importance(keys(20_000), history)
    for one, weight in zip(np.asarray(t), np.asarray(weights), strict=True):
        weight_of[int(one)] = float(weight)
    assert sorted(weight_of) == list(range(8))
    f = np.random.default_rng(5).normal(size=8)
    np.testing.assert_allclose(sum(float(p[i]) * weight_of[i] * f[i] for i in range(8)), f.mean(), rtol=1e-6)
    counts = np.bincount(t, minlength=8)
    assert (np.abs(counts - 20_000 * p) < 5 * np.sqrt(20_000 * p * (1 - p))).all()


def test_the_second_moment_is_the_draw_of_least_variance(x64):
    # Of E_p[(w L)²] over p, p ~ sqrt(E[L²]) is the minimum (Nichol & Dhariwal 2021, section 3.3).
    history = filled()
    second = np.square(np.asarray(history.losses)).mean(1)
    variance = lambda p: (second / (64 * p)).sum()  # noqa: E731
    p = np.asarray(history.probabilities())
    assert variance(p) < variance(np.full(8, 1 / 8))
    for seed in range(20):
        other = np.random.default_rng(seed).dirichlet(np.ones(8))
        assert variance(p) < 1.001 * variance(other)


def test_uniform_until_every_t_has_its_ten_losses():
    history = filled()
    history = history._replace(counts=history.counts.at[3].set(9))
    np.testing.assert_allclose(history.probabilities(), 1 / 8, rtol=1e-6)
    history = history.updated(jnp.array([3]), jnp.array([1.0]))
    assert np.ptp(history.probabilities()) > 0.01
    np.testing.assert_allclose(LossHistory.empty(8).probabilities(), 1 / 8, rtol=1e-6)
    dead = LossHistory(jnp.zeros((8, 10)), jnp.full(8, 10))
    np.testing.assert_allclose(dead.probabilities(), 1 / 8, rtol=1e-6)


def test_the_history_keeps_the_last_ten_in_order():
    # A queue for each t, by hand; batches with one t many times over are in it.
    rng = np.random.default_rng(1)
    history, queues = LossHistory.empty(3), [[] for _ in range(3)]
    for size in (4, 13, 1, 30, 7):
        t, losses = rng.integers(0, 3, size), rng.normal(size=size).astype(np.float32)
        history = jax.jit(LossHistory.updated)(history, jnp.asarray(t), jnp.asarray(losses))
        for one, loss in zip(t, losses, strict=True):
            queues[one].append(loss)
    for row, count, queue in zip(history.losses, history.counts, queues, strict=True):
        assert int(count) == len(queue)
        np.testing.assert_array_equal(np.sort(row), np.sort(queue[-10:]))
