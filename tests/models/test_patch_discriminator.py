"""The discriminator of patches: the published network's size, and which pixels a logit sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models import PatchDiscriminator
from marble.models.layers import GroupNorm

SMALL = PatchDiscriminator(channels=8, num_layers=2, num_groups=4)


def test_it_has_the_published_size():
    """4x4 kernels of 3-64-128-256-512-1 channels, biases at both ends, and a scale and a shift a normed channel."""
    model = PatchDiscriminator()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32))
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == kernels + 64 + 1 + 2 * (128 + 256 + 512)
    logits = jax.eval_shape(model.apply, shapes, jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32))
    assert logits.shape == (2, 30, 30)  # Isola et al. 2017, section 3.2


def test_a_logit_sees_seventy_pixels_a_side(monkeypatch):
    """Isola et al. 2017, section 6.1.1; norms, which see all of an image, are left out."""
    monkeypatch.setattr(GroupNorm, "__call__", lambda self, x: x)
    model = PatchDiscriminator(channels=2, num_groups=1)
    images = jnp.ones((1, 128, 128, 1))
    params = model.init(jax.random.key(0), images)
    params = jax.tree.map(lambda x: jnp.abs(x) + 0.01, params)  # nothing cancels, and no unit is off
    gradient = jax.grad(lambda x: model.apply(params, x)[0, 7, 7])(images)
    rows = np.flatnonzero(np.abs(gradient[0, :, :, 0]).sum(axis=1))
    assert rows[-1] - rows[0] + 1 == 70


def test_an_image_is_judged_by_itself():
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    params = SMALL.init(jax.random.key(0), images)
    together = SMALL.apply(params, images)
    alone = np.concatenate([SMALL.apply(params, image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert together.std() > 0


def test_images_that_leave_no_place_are_refused():
    with pytest.raises(InputError, match="8x8 are too small for a discriminator of 2 layers: it takes sides of 16"):
        jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
