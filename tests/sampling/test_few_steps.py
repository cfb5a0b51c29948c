"""Samplers of models of few steps: with what such a model has to say in closed form, one step is as good as many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_flow import MEAN, STD, flow_map

from marble.diffusion import rectified_flow
from marble.diffusion.prediction import predict
from marble.sampling import DDIM, Consistency, image_keys, levels, sample

SCHEDULE = rectified_flow(1e-5, 1 - 1e-5)


def mean_flow(x, level, context):
    """The exact mean velocity over each step, as a flow model's output would be read."""
    t, s = level.t / 1000, context["s"] / 1000
    t = jnp.broadcast_to(t, s.shape)
    u = (x - flow_map(x, t, s)) / (t - s)[:, None]
    return predict(u, "flow", x_t=x, level=level)


@pytest.mark.parametrize("steps", [1, 3])
def test_told_where_a_step_ends_ddim_goes_the_whole_way(steps):
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    grid = levels(SCHEDULE, steps, "trailing")
    found = sample(mean_flow, DDIM(), grid, image_keys(0, jnp.arange(5)), (4,), noise=noise, tells_s=True)
    exact = flow_map(noise, jnp.ones(5), jnp.zeros(5))
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_a_consistency_model_draws_data_in_one_step_and_in_several():
    def end(x, level, context):
        there = flow_map(x, jnp.broadcast_to(level.sigma, x.shape[:1]), jnp.zeros(len(x)))
        level = level.like(x)
        return predict((x - there) / level.sigma, "flow", x_t=x, level=level)

    for steps in (1, 4):
        grid = levels(SCHEDULE, steps, "trailing")
        x = sample(end, Consistency(), grid, image_keys(0, jnp.arange(50)), (400,))
        assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / 20000**0.5)
        assert float(x.std()) == pytest.approx(STD, rel=4 / (2 * 20000) ** 0.5)


def test_each_step_of_a_consistency_model_draws_new_noise():
    x_0 = jnp.full((3, 4), 0.5)
    level_t, level_s = SCHEDULE.level(jnp.asarray(0.9)), SCHEDULE.level(jnp.asarray(0.4))
    said = lambda x, level, context=None: predict((x - x_0) / level.sigma, "flow", x_t=x, level=level)  # noqa: E731
    keys = image_keys(0, jnp.arange(3))
    steps = [Consistency().step(said, level_t, level_s, x, (), keys).x for x in (jnp.zeros((3, 4)), jnp.ones((3, 4)))]
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-6)  # nothing of x is left but what was said of it
    noise = (steps[0] - level_s.alpha * x_0) / level_s.sigma
    wanted = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    np.testing.assert_allclose(noise, wanted, atol=1e-5)
