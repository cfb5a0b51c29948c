"""CLIP's networks: published sizes, what a token can see, where a text ends, lengths, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.clip import Clip, ClipText, ClipVision

TINY = dict(width=24, num_layers=2, num_heads=3, projection=10)
TEXT = ClipText(vocab_size=30, max_length=9, eos_token_id=29, **TINY)
VISION = ClipVision(image_size=13, patch_size=4, **TINY)
TOKENS = jnp.asarray([[28, 5, 29, 0, 0, 29, 3], [28, 1, 2, 3, 4, 5, 29]])
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 13, 13, 3)), jnp.float32)

B_TEXT = ClipText(width=512, num_heads=8, projection=512)
L_TEXT = ClipText(projection=768)
L_VISION = ClipVision(patch_size=14, width=1024, num_layers=24, num_heads=16, projection=768)


def params_of(model, *inputs):
    """Random values everywhere, so that nothing starts at zero."""
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), params)


def count(model, *inputs):
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "model, expected",
    [
        (ClipText(), 123_060_480),
        (ClipText(width=1024, num_layers=23, num_heads=16, activation="gelu"), 340_387_840),
        (Clip(B_TEXT, ClipVision(projection=512)), 151_277_313),
        (Clip(B_TEXT, ClipVision(patch_size=16, projection=512)), 149_620_737),
        (Clip(L_TEXT, L_VISION), 427_616_513),
    ],
    ids=["L/14 text", "OpenCLIP-H text", "B/32", "B/16", "L/14"],
)
def test_published_networks_have_their_parameters(model, expected):
    tokens, images = jnp.zeros((1, 77), jnp.int32), jnp.zeros((1, 224, 224, 3))
    assert count(model, *([tokens, images] if isinstance(model, Clip) else [tokens])) == expected


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_are_float32_whatever_is_computed_in(dtype):
    shapes = jax.eval_shape(lambda p: TEXT.clone(dtype=dtype).apply(p, TOKENS), {"params": params_of(TEXT, TOKENS)})
    assert [(a.shape, a.dtype) for a in shapes] == [
        (shape, jnp.float32) for shape in [(2, 7, 24), (2, 7, 24), (2, 24), (2, 10)]
    ]
    shapes = jax.eval_shape(lambda p: VISION.clone(dtype=dtype).apply(p, IMAGES), {"params": params_of(VISION, IMAGES)})
    assert [(a.shape, a.dtype) for a in shapes] == [(shape, jnp.float32) for shape in [(3, 10, 24), (3, 24), (3, 10)]]


def test_a_token_is_not_told_of_those_after_it_nor_of_masked_ones():
    params = {"params": params_of(TEXT, TOKENS)}
    last = TEXT.apply(params, TOKENS).last
    later = TEXT.apply(params, TOKENS.at[:, 4].set(7)).last
    np.testing.assert_allclose(last[:, :4], later[:, :4], atol=1e-6)
    assert all(np.abs(last[:, i] - later[:, i]).max() > 1e-3 for i in (4, 5, 6))
    mask = jnp.ones_like(TOKENS).at[:, 4].set(0)
    one, other = (TEXT.apply(params, tokens, mask).last for tokens in (TOKENS, TOKENS.at[:, 4].set(7)))
    np.testing.assert_allclose(one[:, 5:], other[:, 5:], atol=1e-6)
    assert np.abs(one[:, 5:] - last[:, 5:]).max() > 1e-3


def test_a_text_ends_at_its_first_end_or_in_old_configs_at_its_highest_token():
    params = {"params": params_of(TEXT, TOKENS)}
    states = TEXT.apply(params, TOKENS)
    np.testing.assert_array_equal(states.pooled, states.last[jnp.arange(2), jnp.asarray([2, 6])])
    np.testing.assert_allclose(states.embedding, states.pooled @ params["params"]["projection"]["kernel"], atol=1e-5)
    old = TEXT.clone(eos_token_id=2).apply(params, TOKENS.at[0, 4].set(29).at[0, 2].set(2))
    np.testing.assert_array_equal(old.pooled, old.last[jnp.arange(2), jnp.asarray([4, 6])])


def test_padding_after_the_end_changes_no_embedding():
    params = {"params": params_of(TEXT, TOKENS)}
    padded = jnp.pad(TOKENS, ((0, 0), (0, 2)), constant_values=3)
    np.testing.assert_allclose(
        TEXT.apply(params, padded).embedding, TEXT.apply(params, TOKENS).embedding, rtol=1e-4, atol=1e-5
    )


def test_the_penultimate_state_is_that_of_a_network_without_the_last_block():
    params = params_of(TEXT, TOKENS)
    shorter = TEXT.clone(num_layers=1)
    fewer = {name: leaves for name, leaves in params.items() if name != "block_1"}
    # A LayerNorm of scale 1 and bias 0 is all that stands between the two.
    fewer["norm_out"] = {"scale": jnp.ones(24), "bias": jnp.zeros(24)}
    x = TEXT.apply({"params": params}, TOKENS).penultimate
    normalised = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(shorter.apply({"params": fewer}, TOKENS).last, normalised, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_remat_keeps_the_gradient():
    params = params_of(TEXT, TOKENS)

    def loss(params, model):
        return (model.apply({"params": params}, TOKENS).embedding ** 2).sum()

    one, other = (jax.grad(loss)(params, TEXT.clone(remat=remat)) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, other)


def test_patches_are_read_where_they_stand_and_what_is_left_over_is_not():
    params = {"params": params_of(VISION, IMAGES)}
    last = VISION.apply(params, IMAGES).last
    np.testing.assert_array_equal(last, VISION.apply(params, IMAGES.at[:, 12:].set(9).at[:, :, 12:].set(9)).last)
    order = jnp.asarray([0, 4, 2, 3, 1, 5, 6, 7, 8, 9])  # the patch above and the one under it, behind the class token
    swapped = IMAGES.at[:, :4, :4].set(IMAGES[:, 4:8, :4]).at[:, 4:8, :4].set(IMAGES[:, :4, :4])
    assert np.abs(VISION.apply(params, swapped).last - last[:, order]).max() > 1e-3
    params["params"]["positions"]["embedding"] = params["params"]["positions"]["embedding"][order]
    np.testing.assert_allclose(VISION.apply(params, swapped).last, last[:, order], rtol=1e-4, atol=1e-5)


def test_logits_are_cosines_over_the_temperature():
    clip = Clip(TEXT, VISION)
    params = {"params": params_of(clip, TOKENS, IMAGES)}
    params["params"]["logit_scale"] = jnp.log(jnp.float32(7))
    texts = clip.apply(params, TOKENS, method="encode_text")
    images = clip.apply(params, IMAGES, method="encode_image")
    np.testing.assert_allclose(jnp.linalg.norm(texts, axis=-1), 1, rtol=1e-5)
    expected = [[7 * (image * words).sum() for words in texts] for image in images]
    np.testing.assert_allclose(clip.apply(params, TOKENS, IMAGES), expected, rtol=1e-4, atol=1e-5)
    fresh = clip.init(jax.random.key(0), TOKENS, IMAGES)["params"]["logit_scale"]
    assert fresh.shape == () and np.isclose(np.exp(fresh), 1 / 0.07)


@pytest.mark.parametrize(
    "model, inputs, message",
    [
        (TEXT, [jnp.zeros((1, 10), jnp.int32)], r"tokens int32\[1, 10\] must be integers \[b l\], l at most 9"),
        (TEXT, [jnp.zeros((1, 7))], r"tokens float32\[1, 7\] must be integers"),
        (TEXT.clone(num_heads=5), [TOKENS], "24 channels can't be split into num_heads 5: take num_heads 4"),
        (VISION, [jnp.zeros((1, 12, 13, 3))], r"images of shape \[1, 12, 13, 3\] must be \[b 13 13 3\]"),
        (Clip(TEXT.clone(projection=None), VISION), [TOKENS, IMAGES], "text.projection=None and vision.projection=10"),
        (Clip(TEXT.clone(projection=12), VISION), [TOKENS, IMAGES], "text.projection=12 and vision.projection=10"),
    ],
)
def test_what_does_not_fit_is_refused(model, inputs, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), *inputs)
