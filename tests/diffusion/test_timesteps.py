"""The draw of t in training."""

import jax
import numpy as np

from marble.diffusion import timesteps


def test_uniform_covers_all_steps_evenly():
    keys = jax.random.split(jax.random.key(0), 40_000)
    t = np.asarray(timesteps.uniform(keys, 10))
    counts = np.bincount(t, minlength=10)
    assert len(counts) == 10
    assert (np.abs(counts - 4000) < 5 * np.sqrt(4000 * 0.9)).all()


def test_each_t_is_its_own_key_s():
    keys = jax.random.split(jax.random.key(1), 8)
    np.testing.assert_array_equal(timesteps.uniform(keys, 1000)[3:5], timesteps.uniform(keys[3:5], 1000))
