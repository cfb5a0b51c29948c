"""Image i is the same in every batch and on any number of devices: each sampler, with a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import rest_slow

from marble.data.preprocess import to_uint8
from marble.diffusion import denoiser, linear
from marble.models import UNet
from marble.objectives.samplers import SAMPLERS, with_schedule
from marble.parallel import ParallelConfig
from marble.sampling import fold_keys, guidance, image_keys, levels, noise_like, sample

SCHEDULE = linear()
SHAPE = (8, 8, 1)
NUM = 64


@pytest.fixture(scope="module")
def denoise_fn():
    """What is right for N(0, 1/4), and a network on top of it, whose every parameter counts."""
    model = UNet(out_channels=1, channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, moved)

    def apply(x_t, t, context):
        level = SCHEDULE.level(t).like(x_t)
        of_gaussian = level.sigma / (level.alpha**2 / 4 + level.sigma**2) * x_t
        # As x_0 it is 0.5 sigma at most, however far alpha has fallen.
        return of_gaussian + 0.5 * level.alpha * jnp.tanh(model.apply({"params": params}, x_t, t, context))

    return guidance.static_threshold(denoiser(apply, SCHEDULE))


def test_keys_and_noise_are_bit_equal_for_any_batch_and_devices():
    @jax.jit
    def drawn(indices):
        keys = image_keys(7, indices)
        return jax.random.key_data(keys), noise_like(fold_keys(keys, 3), jnp.zeros((len(indices), *SHAPE)))

    indices = np.arange(NUM, dtype=np.uint32)
    sharded = drawn(ParallelConfig().open().put({"index": indices})["index"])
    assert len(sharded[1].sharding.device_set) == 8
    for size in (1, 7, NUM):
        jax.tree.map(lambda a, b, n=size: np.testing.assert_array_equal(a, b[:n]), drawn(indices[:size]), sharded)


@pytest.mark.parametrize("name", rest_slow(SAMPLERS, "ancestral", "dpm_solver_2m"))
def test_images_are_equal_for_any_batch_and_devices(name, denoise_fn):
    sampler, grid = with_schedule(SAMPLERS[name], SCHEDULE), levels(SCHEDULE, 8 if name != "ode" else 1)
    draw = jax.jit(lambda indices: sample(denoise_fn, sampler, grid, image_keys(0, indices), SHAPE))
    indices = np.arange(NUM, dtype=np.uint32)
    sharded = draw(ParallelConfig().open().put({"index": indices})["index"])
    assert len(sharded.sharding.device_set) == 8
    assert np.std(sharded) > 0.1
    for size in (1, 7, NUM):
        images, expected = draw(indices[:size]), np.asarray(sharded)[:size]
        np.testing.assert_allclose(images, expected, atol=2e-3)  # a thousandth of the range, -1 to 1
        apart = np.abs(np.asarray(to_uint8(images, 256), int) - np.asarray(to_uint8(expected, 256), int))
        assert (apart > 1).mean() <= 1e-3
