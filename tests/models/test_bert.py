"""BERT's network: its size, what masks and types do, and the embedding of a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.bert import Bert, sentence_embedding

TINY = Bert(vocab_size=30, max_length=9, width=24, num_layers=2, num_heads=3, hidden=40)
TOKENS = jnp.asarray([[28, 5, 29, 0, 0, 29, 3], [28, 1, 2, 3, 4, 5, 29]])


def params_of(model, *inputs):
    """Random values everywhere, so that nothing starts at zero."""
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), params)


def test_minilm_has_its_parameters_less_the_pooler_s():
    params = jax.eval_shape(Bert().init, jax.random.key(0), jnp.zeros((1, 512), jnp.int32))["params"]
    embeddings = (30522 + 512 + 2 + 2) * 384
    block = 4 * (384 * 384 + 384) + (384 * 1536 + 1536) + (1536 * 384 + 384) + 4 * 384
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == embeddings + 6 * block == 22_565_376


def test_masked_tokens_are_not_read_and_all_others_are():
    params = {"params": params_of(TINY, TOKENS)}
    mask = jnp.ones_like(TOKENS).at[:, 4].set(0)
    seen = [i for i in range(7) if i != 4]
    one, other = (TINY.apply(params, tokens, mask)[:, seen] for tokens in (TOKENS, TOKENS.at[:, 4].set(7)))
    np.testing.assert_allclose(one, other, atol=1e-6)
    whole = TINY.apply(params, TOKENS)
    np.testing.assert_allclose(whole, TINY.apply(params, TOKENS, jnp.ones_like(TOKENS)), atol=1e-6)
    assert (np.abs(whole - TINY.apply(params, TOKENS.at[:, 4].set(7))).max(axis=(0, 2)) > 1e-3).all()


def test_types_are_zero_where_nothing_is_said():
    params = {"params": params_of(TINY, TOKENS)}
    states = TINY.apply(params, TOKENS)
    np.testing.assert_array_equal(states, TINY.apply(params, TOKENS, None, jnp.zeros_like(TOKENS)))
    assert np.abs(states - TINY.apply(params, TOKENS, None, jnp.ones_like(TOKENS))).max() > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_are_float32_whatever_is_computed_in(dtype):
    params = {"params": params_of(TINY, TOKENS)}
    states = jax.eval_shape(lambda p: TINY.clone(dtype=dtype).apply(p, TOKENS), params)
    assert (states.shape, states.dtype) == ((2, 7, 24), jnp.float32)


def test_a_sentence_is_the_mean_of_its_own_tokens():
    states = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    means = np.stack([states[0, :3].mean(0), states[1].mean(0)])
    expected = means / np.sqrt((means**2).sum(-1, keepdims=True))
    embedding = sentence_embedding(jnp.asarray(states), jnp.asarray(mask))
    np.testing.assert_allclose(embedding[:2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(embedding[2], 0)


def test_more_tokens_than_places_are_refused():
    with pytest.raises(InputError, match=r"tokens int32\[1, 10\] must be integers \[b l\], l at most 9"):
        jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 10), jnp.int32))
