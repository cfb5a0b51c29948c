"""The autoencoder's network: shapes, sizes that don't fit, and what it starts as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models import VAE
from marble.models.vae import MIN_LOG_SCALE

TINY = dict(image_shape=(8, 4, 3), latent_size=5, channels=8, channel_mult=(1, 2), num_groups=4)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 4, 3)), jnp.float32)


def params_of(model, x=X):
    """Random values everywhere, so that nothing starts at zero."""
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_images_go_to_latents_and_back_in_float32(dtype):
    model = VAE(**TINY, dtype=dtype)
    params = params_of(model)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    encode, decode = (
        jax.eval_shape(lambda p, x, m=m: model.apply({"params": p}, x, method=m), params, inputs)
        for m, inputs in (("encode", X), ("decode", jnp.zeros((2, 5))))
    )
    assert [(part.shape, part.dtype) for part in encode] == [((2, 5), jnp.float32)] * 2
    assert [(part.shape, part.dtype) for part in decode] == [(X.shape, jnp.float32)] * 2


def test_an_image_s_latent_is_its_own_and_a_fresh_decoder_says_nothing():
    model = VAE(**TINY)
    encode = jax.jit(lambda params, x: model.apply({"params": params}, x, method="encode"))
    params = params_of(model)
    both, alone = encode(params, X), encode(params, X[1:])
    np.testing.assert_allclose(both[0][1:], alone[0], atol=1e-5)
    assert not np.allclose(both[0][0], both[0][1])
    fresh = jax.jit(model.init)(jax.random.key(0), X)["params"]
    mean, log_scale = model.apply({"params": fresh}, jnp.ones((2, 5)), method="decode")
    assert not mean.any() and np.allclose(log_scale, 0, atol=1e-2)


def test_no_scale_is_below_its_floor():
    model = VAE(**TINY)
    params = jax.tree.map(lambda leaf: 30 * leaf, params_of(model))
    _, log_scale = jax.jit(lambda p: model.apply({"params": p}, jnp.ones((2, 5)), method="decode"))(params)
    assert log_scale.min() >= MIN_LOG_SCALE and log_scale.max() > 10


def test_dropout_is_for_training():
    model = VAE(**TINY, dropout=0.5)
    params = params_of(model)
    decode = jax.jit(
        lambda key, train: model.apply(
            {"params": params}, jnp.ones((2, 5)), train=train, rngs={"dropout": key}, method="decode"
        )[0],
        static_argnums=1,
    )
    one, other = jax.random.key(0), jax.random.key(1)
    assert not np.allclose(decode(one, True), decode(other, True))
    np.testing.assert_array_equal(decode(one, False), decode(other, False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_mult": (1, 2, 2, 2)}, r"images of \[8, 4, 3\]: 4 levels .* multiples of 8"),
        ({"latent_size": 0}, "model.latent_size=0"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"channel_mult": ()}, "model.channel_mult"),
        ({"num_groups": 3}, "num_groups"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(VAE(**{**TINY, **changes}).init, jax.random.key(0), X)
