"""Networks that are told where a step ends: fresh, they say what they said without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.init_from import merged
from marble.models import ConditionalUNet, DiT, UNet

SMALL = dict(channels=16, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
NETWORKS = {
    "unet": (UNet(**SMALL, attention_resolutions=()), {}),
    "dit": (DiT(width=32, num_layers=1, num_heads=2, num_classes=None, out_channels=3), {}),
    "conditional_unet": (
        ConditionalUNet(**SMALL, out_channels=3, transformer_depth=(1, 0), num_heads=(2, 2), text_channels=8),
        {"text": jnp.ones((2, 3, 8))},
    ),
}


def noised(params):
    """The parameters with noise in the place of those that start as zeros, but for the new ones."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)])


@pytest.mark.parametrize("name", NETWORKS)
def test_with_a_teachers_parameters_it_says_what_the_teacher_says_wherever_it_goes(name):
    model, told = NETWORKS[name]
    student = model.clone(reads_s=True)
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jnp.array([300.0, 900.0])
    teacher = noised(model.init(jax.random.key(0), x, t, told)["params"])
    fresh = student.init(jax.random.key(2), x, t, told)["params"]
    params = merged(fresh, teacher, partial=True, name="teacher")
    said = lambda params, **more: student.apply({"params": params}, x, t, {**told, **more})  # noqa: E731
    wanted = model.apply({"params": teacher}, x, t, told)
    for more in ({}, {"s": jnp.zeros(2)}, {"s": jnp.array([100.0, 0.0])}):
        np.testing.assert_allclose(said(params, **more), wanted, atol=2e-6)
    there, trained = jnp.array([100.0, 0.0]), noised(params)
    assert float(jnp.abs(said(trained, s=there) - said(trained)).max()) > 1e-3
    np.testing.assert_array_equal(said(trained, s=t), said(trained))  # to stay is not to be told


@pytest.mark.parametrize("name", NETWORKS)
def test_others_are_not_told(name):
    model, told = NETWORKS[name]
    with pytest.raises(InputError, match="'s'"):
        jax.eval_shape(
            model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 3)), jnp.zeros(2), {**told, "s": jnp.zeros(2)}
        )
