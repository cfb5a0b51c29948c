"""A rotation of pixels as the codec: what diffuses is something else, and the pictures are the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from marble.conditioning import Identity
from marble.diffusion import linear
from marble.objectives.samplers import named_sampler
from marble.pipelines import DiffusionPipeline, SamplingConfig
from marble.typing import Array, ImageSpec

IMAGE = ImageSpec((4, 4, 1), 256)
SIZE = 16
RNG = np.random.default_rng(0)
ROTATION = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0].astype(np.float32)
MEAN = RNG.uniform(-0.2, 0.2, SIZE).astype(np.float32)
ROOT = (0.2 * RNG.normal(size=(SIZE, SIZE)) / 4).astype(np.float32)
SCHEDULE = linear(num_train_timesteps=50, beta_end=0.3)
STEPS = 20


@struct.dataclass
class Rotation:
    """x_0 = Q x, an autoencoder that is linear and orthogonal; of a shape of its own."""

    matrix: Array
    image: ImageSpec = struct.field(pytree_node=False)
    spec: ImageSpec = struct.field(pytree_node=False, default=ImageSpec((2, 2, 4), None))

    def encode(self, images, keys=None):
        return (images.reshape(-1, SIZE) @ self.matrix.T).reshape(-1, *self.spec.shape)

    def resized(self, height, width):
        return self

    def decode(self, x_0):
        return (x_0.reshape(-1, SIZE) @ self.matrix).reshape(-1, *self.image.shape)


class Exact(nn.Module):
    """eps of x_t for x_0 ~ N(mean, root root^T): sigma (alpha² C + sigma² I)^-1 (x_t - alpha mean)."""

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        mean = self.param("mean", nn.initializers.zeros, (SIZE,))
        root = self.param("root", nn.initializers.zeros, (SIZE, SIZE))
        level = SCHEDULE.level(t)
        alpha, sigma = level.alpha[:, None], level.sigma[:, None]
        total = alpha[..., None] ** 2 * (root @ root.T)[None] + sigma[..., None] ** 2 * jnp.eye(SIZE)[None]
        apart = x_t.reshape(-1, SIZE) - alpha * mean[None]
        return (sigma * jnp.linalg.solve(total, apart[..., None])[..., 0]).reshape(x_t.shape)


def pipe_of(codec, params, sampler):
    config = SamplingConfig(num_steps=STEPS, clip_sample=False, batch_size=8)
    return DiffusionPipeline(
        model=Exact(),
        params=params,
        schedule=SCHEDULE,
        codec=codec,
        sampler=named_sampler(SCHEDULE, {}, sampler),
        config=config,
    )


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_2m"])
def test_samples_of_rotated_latents_are_those_of_pixels(sampler):
    """The denoiser of Q x is Q that of x, so from the noise Q z every step is the rotated one of pixels from z."""
    pixels = pipe_of(Identity(IMAGE), {"mean": MEAN, "root": ROOT}, sampler)
    rotated = {"mean": ROTATION @ MEAN, "root": ROTATION @ ROOT}
    latents = pipe_of(Rotation(jnp.asarray(ROTATION), IMAGE), rotated, sampler)
    noise = RNG.normal(size=(8, *IMAGE.shape)).astype(np.float32)
    turned = (noise.reshape(-1, SIZE) @ ROTATION.T).reshape(-1, 2, 2, 4)
    expected = pixels.sample(8, noise=noise, as_float=True)
    found = latents.sample(8, noise=turned, as_float=True)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert expected.std() > 0.1


def test_there_and_back_is_the_image():
    codec = Rotation(jnp.asarray(ROTATION), IMAGE)
    pipe = pipe_of(codec, {"mean": MEAN, "root": ROOT}, "ddim")
    images = RNG.uniform(-1, 1, (8, *IMAGE.shape)).astype(np.float32)
    np.testing.assert_allclose(pipe.decode(pipe.encode(images)), images, atol=1e-5)
    assert jax.tree.leaves(codec)
