"""On whatever device this runs, beside closed forms and the CPU: formulas, samplers, images.

Products of matrices are in float32 wholly here, not in the TF32 that GPUs and TPUs have by default.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture import denoise

from marble import diffusion, sampling
from marble.conditioning import Identity
from marble.models import UNet
from marble.parallel import ParallelConfig
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig

pytestmark = pytest.mark.device
SCHEDULE = diffusion.linear()
RNG = np.random.default_rng(0)
X_0, NOISE = RNG.uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32), RNG.normal(size=(6, 8, 8, 3)).astype(np.float32)
T = np.array([0, 1, 10, 300, 700, 999])


@pytest.fixture(autouse=True)
def whole_float32():
    with jax.default_matmul_precision("highest"):
        yield


def on_cpu(function, *arguments):
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.tree.map(np.asarray, function(*arguments))


def alphas_cumprod():
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def test_the_forward_process_is_its_closed_form():
    found = jax.jit(lambda x, noise: diffusion.q_sample(SCHEDULE, x_0=x, t=T, noise=noise))(X_0, NOISE)
    kept = alphas_cumprod()[T][:, None, None, None]
    np.testing.assert_allclose(found, np.sqrt(kept) * X_0 + np.sqrt(1 - kept) * NOISE, atol=2e-6)


def test_the_posterior_is_its_closed_form():
    t = T[1:]
    levels = dict(level_t=SCHEDULE.level(t), level_s=SCHEDULE.previous_level(t))
    found = jax.jit(lambda x, y: diffusion.q_posterior(x_0=x, x_t=y, **levels))(X_0[1:], NOISE[1:])
    beta = np.linspace(1e-4, 0.02, 1000)[t][:, None, None, None]
    kept, before = (alphas_cumprod()[s][:, None, None, None] for s in (t, t - 1))
    mean = (np.sqrt(before) * beta * X_0[1:] + np.sqrt(1 - beta) * (1 - before) * NOISE[1:]) / (1 - kept)
    np.testing.assert_allclose(found.mean, mean, atol=5e-5)
    variance = np.broadcast_to(found.variance, mean.shape)
    np.testing.assert_allclose(variance, beta * (1 - before) / (1 - kept) + 0 * mean, rtol=1e-4)


SAMPLERS = {
    "ancestral": sampling.Ancestral(),
    "ddim": sampling.DDIM(),
    "dpm_solver_2m": sampling.dpm_solver_2m(),
    "unipc": sampling.UniPC(),
    "heun": sampling.Heun(SCHEDULE),
    "pndm": sampling.PNDM(SCHEDULE),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectories_are_those_of_the_cpu(name):
    def walk():
        keys, grid = sampling.image_keys(3, jnp.arange(16)), sampling.levels(SCHEDULE, 25)
        run = jax.jit(lambda keys: sampling.sample(denoise, SAMPLERS[name], grid, keys, (4, 4, 1), num_frames=5))
        return run(keys)

    (found, frames), (expected, expected_frames) = walk(), on_cpu(walk)
    np.testing.assert_allclose(frames.x, expected_frames.x, atol=2e-3)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_draws_are_the_same_to_the_bit():
    draw = lambda: sampling.noise_like(sampling.image_keys(7, jnp.arange(8)), jnp.zeros((8, 16)))  # noqa: E731
    bits = lambda: jax.random.bits(jax.random.key(5, impl="threefry2x32"), (64,))  # noqa: E731
    np.testing.assert_array_equal(jax.jit(bits)(), on_cpu(jax.jit(bits)))
    np.testing.assert_allclose(jax.jit(draw)(), on_cpu(jax.jit(draw)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_images_of_a_seed_are_those_of_the_cpu_within_a_level():
    model = UNet(channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,), num_groups=8)
    init = jax.jit(model.init)

    def parameters():
        params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))["params"]
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        return tree.unflatten([x + 0.03 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])

    params = on_cpu(parameters)

    def images(device):
        pipe = DiffusionPipeline(
            model=model,
            params=params,
            schedule=SCHEDULE,
            codec=Identity(ImageSpec((8, 8, 3), 256)),
            sampler=sampling.DDIM(),
            config=SamplingConfig(batch_size=32),
            mapping=ParallelConfig().open((device,)),
        )
        return pipe.sample(32, seed=0, steps=50).astype(int)

    found, expected = images(jax.devices()[0]), images(jax.local_devices(backend="cpu")[0])
    assert expected.std() > 10
    assert (np.abs(found - expected) <= 1).mean() >= 0.999
