"""The formulas of few steps, on Gaussian data whose flow is known, and beside the papers' own forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_flow import STD, flow_map, velocity

from marble.diffusion import cosine, edm, linear, rectified_flow
from marble.diffusion.distillation import bent, evened, landing, mean_velocity, num_scales, place_of, pseudo_huber
from marble.sampling import karras_sigmas
from marble.sampling.ddim import ddim_step

SCHEDULES = {"linear": linear(), "cosine": cosine(-8, 8), "edm": edm(), "rectified_flow": rectified_flow()}


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_from_there_lands_where_it_was_to(name, x64):
    schedule, rng = SCHEDULES[name], np.random.default_rng(0)
    times = ([900, 500], [700, 20]) if schedule.num_train_timesteps else ([0.9, 0.5], [0.7, 0.02])
    level_t, level_s = (schedule.level(jnp.asarray(t)) for t in times)
    x_t, x_s = rng.normal(size=(2, 2, 5))
    found = landing(x_t=x_t, x_s=x_s, level_t=level_t, level_s=level_s)
    np.testing.assert_allclose(ddim_step(found, level_t=level_t, level_s=level_s), x_s, atol=1e-6)
    np.testing.assert_allclose(ddim_step(found, level_t=level_t, level_s=level_t), x_t, atol=1e-6)


def test_scales_are_the_papers():
    # Song & Dhariwal 2024, eq. 6: min(s_0 2^floor(k / K1), s_1) + 1 points, K1 = floor(K / (log2[s_1 / s_0] + 1)).
    total, first, last = 1000, 10, 1280
    each = total // (int(np.log2(last // first)) + 1)
    wanted = [min(first * 2 ** (k // each), last) for k in range(total)]
    found = jax.vmap(lambda k: num_scales(k, total, first, last))(jnp.arange(total))
    np.testing.assert_array_equal(found, wanted)
    assert wanted[0] == first and wanted[-1] == last


def test_scales_of_fewer_steps_than_doublings_and_of_one_grid():
    found = [int(num_scales(jnp.int32(k), 3, 10, 1280)) for k in (0, 1, 2, 50)]
    assert found == [10, 20, 40, 1280]
    assert [int(num_scales(jnp.int32(k), 9, 18, 18)) for k in (0, 8)] == [18, 18]


def test_the_bent_grid_is_karras_and_is_inverted(x64):
    place = jnp.linspace(1.0, 0.0, 18)
    noise = bent(place, 0.002, 80.0)
    np.testing.assert_allclose(noise, karras_sigmas(18, 0.002, 80.0), rtol=1e-12)
    np.testing.assert_allclose(place_of(noise, 0.002, 80.0), place, atol=1e-12)
    np.testing.assert_allclose(place_of(jnp.array([1e-5, 900.0]), 0.002, 80.0), [0, 1])


def test_pseudo_huber_is_a_square_near_zero_and_a_distance_far_off(x64):
    direction = np.full((1, 16), 0.25)  # of length 1
    near, far, c = 1e-6, 1e3, 0.03
    np.testing.assert_allclose(pseudo_huber(near * direction, c), near**2 / (2 * c), rtol=1e-6)
    np.testing.assert_allclose(pseudo_huber(far * direction, c), far - c, rtol=1e-6)
    own = 0.00054 * 16**0.5
    np.testing.assert_allclose(pseudo_huber(0.1 * direction), np.sqrt(0.01 + own**2) - own, rtol=1e-9)


def test_the_mean_velocity_of_gaussian_data_is_its_own_target(x64):
    # u = (x_t - x_s) / (t - s) along the exact flow: the identity of MeanFlow holds with nothing left over.
    t, s = jnp.array([0.9, 0.7, 0.4]), jnp.array([0.2, 0.0, 0.39])
    x_t = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))

    def u(x, t):
        return (x - flow_map(x, t, s)) / (t - s)[:, None]

    said, wanted = mean_velocity(u, x_t, velocity(x_t, t), t, s)
    np.testing.assert_allclose(said, wanted, atol=1e-12)
    off, not_wanted = mean_velocity(lambda x, t: 1.1 * u(x, t), x_t, velocity(x_t, t), t, s)
    assert float(jnp.abs(off - not_wanted).max()) > 1e-3


def test_without_a_span_the_mean_velocity_is_the_velocity():
    x_t, t = jnp.ones((2, 3)), jnp.array([0.3, 0.8])
    _, wanted = mean_velocity(lambda x, t: x * t[:, None] ** 3, x_t, velocity(x_t, t), t, t)
    np.testing.assert_array_equal(wanted, velocity(x_t, t))


def test_evened_errors_have_gradients_of_one_size():
    squared = jnp.array([1e-2, 1.0, 100.0])
    gradient = jax.grad(lambda e: evened(e**2).sum())(jnp.sqrt(squared))
    # 2 e / (e² + c): of the logarithm of the error, 2 for every image but for c.
    np.testing.assert_allclose(gradient * jnp.sqrt(squared), 2 * squared / (squared + 1e-3), rtol=1e-6)
    np.testing.assert_allclose(evened(squared, power=0.0), squared)


def test_the_flow_map_that_tests_compare_with_keeps_quantiles():
    x = jnp.array([[0.3, -0.2]])
    there = flow_map(x, jnp.array([1.0]), jnp.array([0.0]))
    assert float(there.std()) == pytest.approx(STD * float(x.std()), rel=1e-6)
