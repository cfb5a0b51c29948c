"""The embeddings of time and label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.embeddings import LabelEmbedding, TimeEmbedding, timestep_embedding


def test_timestep_embedding_has_the_ddpm_values():
    # Computed by the DDPM reference code for dim 128, t = 500.
    embedding = timestep_embedding(jnp.array([500]), 128)[0]
    expected = [-0.467771805, 0.049979169, -0.883849273, 0.998750260]
    np.testing.assert_allclose(embedding[jnp.array([0, 63, 64, 127])], expected, atol=1e-6)


@pytest.mark.parametrize("t", [[0, 1, 999], [0.25, 17.5, 998.75]])
def test_timestep_embedding_is_the_formula(t):
    frequencies = np.array([10 ** (-4 * i / 15) for i in range(16)])
    angles = np.outer(t, frequencies)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(timestep_embedding(jnp.array(t), 32), expected, atol=1e-4)


@pytest.mark.parametrize("dim", [2, 33])
def test_timestep_embedding_refuses_other_dims(dim):
    with pytest.raises(InputError, match=f"{dim} channels: give an even number, 4 or more"):
        timestep_embedding(jnp.array([1]), dim)


def test_time_embedding_is_two_dense_layers():
    module, t = TimeEmbedding(8), jnp.array([3, 700])
    params = module.init(jax.random.key(0), t)["params"]
    params = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    first, second = params["dense_0"], params["dense_1"]
    h = np.asarray(timestep_embedding(t, 8)) @ first["kernel"] + first["bias"][None]
    expected = (h / (1 + np.exp(-h))) @ second["kernel"] + second["bias"][None]
    np.testing.assert_allclose(module.apply({"params": params}, t), expected, rtol=1e-4, atol=1e-4)


def test_label_embedding_has_a_row_a_class_and_one_for_no_class():
    module, labels = LabelEmbedding(11, 4), jnp.array([0, 9, 10])
    params = module.init(jax.random.key(0), labels)["params"]
    rows = params["rows"]["embedding"]
    assert rows.shape == (11, 4)
    np.testing.assert_array_equal(module.apply({"params": params}, labels), rows[labels])


def test_a_label_out_of_range_is_loud():
    module = LabelEmbedding(11, 4)
    params = module.init(jax.random.key(0), jnp.array([0]))
    assert jnp.isnan(module.apply(params, jnp.array([11]))).all()
