"""DDIM between its limits, the ancestral sampler and the ODE."""

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest

from marble.diffusion import linear
from marble.errors import InputError
from marble.sampling import DDIM, Ancestral, image_keys, levels, sample
from marble.sampling.ddim import ddim_step
from marble.typing import Prediction

SCHEDULE = linear()
KEYS = image_keys(0, jnp.arange(4))


def images(sampler, num_steps=10):
    return jax.jit(lambda: sample(mixture.denoise, sampler, levels(SCHEDULE, num_steps), KEYS, (3,)))()


def test_eta_1_is_the_ancestral_sampler_with_the_small_variance():
    np.testing.assert_allclose(images(DDIM(1.0)), images(Ancestral("fixed_small")), atol=2e-6)
    assert not np.allclose(images(DDIM(0.5)), images(Ancestral("fixed_small")), atol=1e-2)


def test_eta_0_draws_nothing_after_the_start():
    start = sample(mixture.denoise, DDIM(0.0), levels(SCHEDULE, 1), KEYS, (3,))
    assert start.shape == (4, 3)
    x, noise = jnp.ones((4, 3)), jnp.stack([image_keys(seed, jnp.arange(4)) for seed in (1, 2, 3)])
    one = mixture.walk(DDIM(0.0), mixture.denoise, levels(SCHEDULE, 3), x, noise)
    other = mixture.walk(DDIM(0.0), mixture.denoise, levels(SCHEDULE, 3), x, noise[::-1])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_whatever_is_drawn_anew_the_noise_is_that_of_the_level(eta, x64):
    # Song, Meng & Ermon 2021, eq. 16: std is eta of beta~'s root; and what is drawn and what is kept make sigma_s².
    level_t, level_s = SCHEDULE.level(700), SCHEDULE.level(650)
    units = jnp.eye(3)[..., None]
    kept = Prediction(x_0=units[0], eps=units[1])
    image, old, drawn = ddim_step(kept, level_t=level_t, level_s=level_s, noise=units[2], eta=eta)[:, 0]
    a_t, a_s = SCHEDULE.alphas_cumprod[[700, 650]]
    np.testing.assert_allclose(image, np.sqrt(a_s), rtol=1e-12)
    np.testing.assert_allclose(drawn**2, eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s), rtol=1e-10)
    np.testing.assert_allclose(old**2 + drawn**2, 1 - a_s, rtol=1e-10)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(InputError, match=f"eta={eta} must be between 0 and 1"):
        images(DDIM(eta))
