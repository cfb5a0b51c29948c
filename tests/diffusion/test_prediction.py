"""Readings of one prediction, and the model behind them."""

import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import denoiser, eps_from_x_0, linear, q_sample, x_0_from_eps


@pytest.mark.parametrize("t", [0, 500, 999])
def test_x_0_and_eps_are_two_readings(t, x64):
    schedule, rng = linear(), np.random.default_rng(0)
    x_0, noise = (jnp.asarray(rng.normal(size=(2, 3, 3, 1))) for _ in range(2))
    x_t, level = q_sample(schedule, x_0, t, noise), schedule.level(t)
    np.testing.assert_allclose(x_0_from_eps(x_t=x_t, eps=noise, level=level), x_0, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(eps_from_x_0(x_t=x_t, x_0=x_0, level=level), noise, rtol=1e-9, atol=1e-10)


def test_the_denoiser_gives_every_image_its_t_and_clips_only_if_asked():
    schedule, x_t = linear(), jnp.full((2, 3), 2.0)
    seen = []

    def model(x, t, context):
        seen.append((t, context))
        return jnp.zeros_like(x)

    plain, clipped = (denoiser(model, schedule, clip_sample=clip)(x_t, 5, {"label": 1}) for clip in (False, True))
    np.testing.assert_array_equal(seen[0][0], [5, 5])
    assert seen[0][1] == {"label": 1}
    np.testing.assert_allclose(plain.x_0, 2 / schedule.alpha[5], rtol=1e-6)
    np.testing.assert_array_equal(clipped.x_0, 1)
    np.testing.assert_array_equal(clipped.eps, 0)
