"""The adaptive solver of the probability-flow ODE, against the exact paths of mixture data."""

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest

from marble.diffusion import cosine, edm, linear, rescale_zero_terminal_snr
from marble.errors import InputError
from marble.sampling import ODE, image_keys, levels, sample
from marble.typing import Prediction


def solved(schedule, tolerance):
    """(errors, evaluations) of one image a quantile, from log-SNR -4 to 4."""
    level_t, level_s = (schedule.level_at(jnp.asarray(log_snr)) for log_snr in (-4.0, 4.0))
    ends = jax.tree.map(lambda *values: jnp.stack(values), level_t, level_s)
    path = mixture.ode_paths(ends, mixture.QUANTILES)
    sampler = ODE(schedule, rtol=tolerance, atol=tolerance)
    x = jnp.asarray(path[0])[:, None]

    @jax.jit
    def solve(x):
        return sampler.solve(mixture.denoise, level_t, level_s, x, sampler.init(x, 1))

    x_s, x_0, pace = solve(x)
    np.testing.assert_allclose(x_0, mixture.denoise(x_s, level_s).x_0, atol=1e-9)
    return np.abs(np.asarray(x_s)[:, 0] - path[1]), np.asarray(pace.evaluations)


@pytest.mark.parametrize("schedule", [cosine(), edm()], ids=["variance_preserving", "variance_exploding"])
def test_it_reaches_its_tolerance(x64, schedule):
    evaluations = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        scale = np.hypot(*(float(c) for c in schedule.level_at(jnp.asarray(4.0))[1:]))
        errors, asked = solved(schedule, tolerance)
        # The tolerance is a step's; the ODE draws paths apart, and the steps add up.
        assert errors.max() < 5 * tolerance * scale
        evaluations.append(asked.max())
    # An order of 5: the tolerance to the power of -1/5.
    growth = np.log(evaluations[3] / evaluations[1]) / np.log(1e4)
    assert 0.1 < growth < 0.3


def test_evaluations_are_counted():
    asked, schedule = [], linear()

    def denoise_fn(x, level, context=None):
        jax.debug.callback(lambda: asked.append(1))
        return mixture.denoise(x, level)

    sampler = ODE(schedule)
    x = jnp.ones((1, 3))
    level_t, level_s = schedule.level(999), schedule.level(100)
    pace = sampler.solve(denoise_fn, level_t, level_s, x, sampler.init(x, 1))[2]
    jax.effects_barrier()
    assert pace.evaluations.tolist() == [len(asked)]


def test_each_image_has_steps_of_its_own():
    # An image of little curvature beside one of much: neither changes the other, to the last bit.
    schedule = linear()
    sampler = ODE(schedule)
    x = jnp.array([[0.0], [0.02], [2.0]])
    solve = jax.jit(
        lambda x: sampler.solve(mixture.denoise, schedule.level(900), schedule.level(0), x, sampler.init(x, 1))
    )
    together = solve(x)
    assert len(set(together[2].evaluations.tolist())) > 1
    for i in range(3):
        alone = solve(jnp.concatenate([x[i : i + 1]] * 3))
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        assert alone[2].evaluations[0] == together[2].evaluations[i]


def test_a_stop_does_not_make_the_steps_after_it_smaller():
    # Stops a hair after each other: the step up to the second is cut to nearly nothing. The next one is as long as the
    # last that was not cut; grown from the cut one it would be doubled some ten times before.
    schedule = cosine()
    sampler = ODE(schedule, 1e-6, 1e-6)

    x = jnp.array([[-1.5], [0.1], [0.7]])

    @jax.jit
    def evaluations(angles):
        grid = schedule.level_at(-2 * jnp.log(jnp.tan(angles)))
        at = lambda i: jax.tree.map(lambda table: table[i], grid)  # noqa: E731

        def body(i, state):
            return sampler.solve(mixture.denoise, at(i), at(i + 1), state[0], state[1])[::2]

        return jax.lax.fori_loop(0, len(angles) - 1, body, (x, sampler.init(x, 1)))[1].evaluations

    few = np.array([1.4, 1.1, 0.8, 0.5, 0.2])
    more = np.sort(np.append(few, few[1:-1] - 1e-4))[::-1]
    cost = np.asarray(evaluations(jnp.asarray(more)) - evaluations(jnp.asarray(few)))
    # Each stop is worth one evaluation, and a step of six; another step may fall elsewhere.
    assert (cost <= 3 * (1 + 6 + 6)).all(), cost


def test_any_grid_leads_to_the_same_images():
    schedule = linear()
    keys = image_keys(0, jnp.arange(3))
    draw = jax.jit(lambda grid, n: sample(mixture.denoise, ODE(schedule, 1e-5, 1e-5), grid, keys, (2,), num_steps=n))
    one, ten = (draw(levels(schedule, n, length=10), n) for n in (1, 10))
    np.testing.assert_allclose(one, ten, atol=1e-4)


def test_a_schedule_without_any_image_at_its_end():
    schedule = rescale_zero_terminal_snr(linear())
    x = sample(mixture.denoise, ODE(schedule), levels(schedule, 1), image_keys(0, jnp.arange(3)), (2,))
    assert np.isfinite(x).all()


def test_a_network_that_fails_does_not_hang():
    schedule = linear()
    x = sample(
        lambda x, level, context=None: Prediction(x * jnp.nan, x * jnp.nan),
        ODE(schedule),
        levels(schedule, 2),
        image_keys(0, jnp.arange(2)),
        (2,),
    )
    assert np.isnan(x).all()


def test_a_tolerance_below_0_is_refused():
    with pytest.raises(InputError, match="rtol=-1.0 must be at least 0"):
        ODE(linear(), rtol=-1.0).init(jnp.zeros((1, 1)), 1)
