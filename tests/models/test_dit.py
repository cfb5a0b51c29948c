"""DiT: its size, what it starts as, what its answer does and doesn't depend on, its positions, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import rest_slow

from marble.errors import InputError
from marble.models.dit import DiT, DiTBlock, positions
from marble.models.patches import from_patches, into_patches

SMALL = DiT(out_channels=3, width=16, num_layers=2, num_heads=2, num_classes=3)
X_T, T = jax.random.normal(jax.random.key(0), (3, 6, 4, 2)), jnp.array([0, 20, 999])
LABEL = {"label": jnp.array([0, 1, 2])}
REMAT_AND_SCAN = {"remat": True, "scan_blocks": True}


@pytest.fixture(scope="module")
def params():
    """None of which is zero, of a size at which every layer matters."""
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), X_T, T)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.2 * rng.standard_normal(p.shape), jnp.float32), shapes)


apply = jax.jit(SMALL.apply)


@pytest.mark.parametrize(
    ("width", "num_layers", "num_heads", "count"),
    [
        (384, 12, 6, 32_865_056),
        (768, 12, 12, 130_315_808),
        (1024, 24, 16, 457_840_672),
        (1152, 28, 16, 674_834_720),
    ],
)
def test_the_paper_s_networks_have_the_paper_s_size(width, num_layers, num_heads, count):
    model = DiT(8, width=width, num_layers=num_layers, num_heads=num_heads)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)), jnp.zeros(1))
    assert sum(p.size for p in jax.tree.leaves(params)) == count


def test_a_fresh_network_answers_zero():
    variables = jax.jit(SMALL.init)(jax.random.key(0), X_T, T)
    np.testing.assert_array_equal(apply(variables, X_T, T, LABEL), jnp.zeros((3, 6, 4, 3)))


def test_the_answer_depends_on_image_time_and_label(params):
    out = apply({"params": params}, X_T, T, LABEL)
    assert out.shape == (3, 6, 4, 3) and out.dtype == jnp.float32
    others = (X_T + 0.1, T, LABEL), (X_T, T + 5, LABEL), (X_T, T, {"label": jnp.array([1, 2, 0])})
    for other in others:
        assert jnp.abs(apply({"params": params}, *other) - out).max(axis=(1, 2, 3)).min() > 1e-3


def test_no_label_is_the_null_class(params):
    out = apply({"params": params}, X_T, T, {"label": jnp.full(3, 3)})
    for context in (None, {}):
        np.testing.assert_array_equal(apply({"params": params}, X_T, T, context), out)


def test_images_do_not_see_each_other(params):
    out = apply({"params": params}, X_T, T, LABEL)
    changed = apply({"params": params}, X_T.at[1].multiply(-3), T.at[1].set(7), LABEL)
    np.testing.assert_array_equal(changed[::2], out[::2])
    assert (changed[1] != out[1]).any()


def test_without_positions_patches_would_be_a_set(params):
    # Patches in another order get the same answers in that order, but for their positions.
    swapped = from_patches(into_patches(X_T, 2)[:, ::-1], 3, 2, 2)
    back = from_patches(into_patches(apply({"params": params}, swapped, T), 2)[:, ::-1], 3, 2, 2)
    assert jnp.abs(back - apply({"params": params}, X_T, T)).max() > 1e-3


def test_unlabelled_networks_have_no_rows_and_read_none():
    model = SMALL.clone(num_classes=None)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T)["params"]
    assert set(shapes["conditioning"]) == {"time_0", "time_1"}


TOLD = SMALL.clone(num_classes=None, text_channels=5)
TEXT = {
    "text": jax.random.normal(jax.random.key(1), (3, 4, 5)),
    "text_mask": jnp.arange(4)[None] < jnp.array([[2], [4], [1]]),
}


@pytest.fixture(scope="module")
def told():
    """The parameters of one that reads texts."""
    shapes = jax.eval_shape(TOLD.init, jax.random.key(0), X_T, T, TEXT)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.2 * rng.standard_normal(p.shape), jnp.float32), shapes)


def test_a_text_is_attended_to_in_each_block_as_a_set_and_by_its_mask(told):
    answer = jax.jit(lambda text: TOLD.apply({"params": told}, X_T, T, text))
    out = answer(TEXT)
    assert jnp.abs(answer({**TEXT, "text": TEXT["text"] + 1}) - out).max(axis=(1, 2, 3)).min() > 1e-3
    hidden = jnp.where(TEXT["text_mask"][..., None], TEXT["text"], 7.0)  # what the mask hides may be anything
    np.testing.assert_allclose(answer({**TEXT, "text": hidden}), out, atol=1e-6)
    turned = {name: value[:, ::-1] for name, value in TEXT.items()}
    np.testing.assert_allclose(answer(turned), out, atol=1e-5)
    for name in ("block_0", "block_1"):
        without = {
            **told,
            name: {**told[name], "text_attention": jax.tree.map(jnp.zeros_like, told[name]["text_attention"])},
        }
        assert jnp.abs(TOLD.apply({"params": without}, X_T, T, TEXT) - out).max() > 1e-3


def test_of_one_token_the_text_adds_that_token_s_value(told):
    # One key has all of the attention, whatever the query: what is added is proj(value(text)), in every patch.
    x, emb, text = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 6, 16), (3, 16), (3, 1, 5)])
    )
    params, block = told["block_0"], DiTBlock(2, 64)
    layers = params["text_attention"]
    value = text @ layers["value"]["kernel"] + layers["value"]["bias"][None, None]
    added = value @ layers["proj"]["kernel"] + layers["proj"]["bias"][None, None]
    bare = {name: layer for name, layer in params.items() if name != "text_attention"}
    still = {**params, "modulation": jax.tree.map(jnp.zeros_like, params["modulation"])}  # the gates shut
    bare_still = {**bare, "modulation": still["modulation"]}
    np.testing.assert_allclose(block.apply({"params": bare_still}, x, emb), x)
    np.testing.assert_allclose(block.apply({"params": still}, x, emb, text), x + added, atol=1e-5)


def test_a_fresh_network_that_reads_texts_answers_zero():
    variables = jax.jit(TOLD.init)(jax.random.key(0), X_T, T, TEXT)
    assert not jnp.any(variables["params"]["block_0"]["text_attention"]["proj"]["kernel"])
    np.testing.assert_array_equal(jax.jit(TOLD.apply)(variables, X_T, T, TEXT), jnp.zeros((3, 6, 4, 3)))


@pytest.mark.parametrize("changes", [{"remat": True}, {"scan_blocks": True}])
def test_how_blocks_are_computed_changes_nothing_of_a_text(told, changes):
    answers = [jax.jit(m.apply)({"params": told}, X_T, T, TEXT) for m in (TOLD.clone(**changes), TOLD)]
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)


def gradient(model, params):
    return jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, X_T, T, LABEL)).mean()))(params)


@pytest.mark.parametrize("changes", rest_slow([{"remat": True}, {"scan_blocks": True}, REMAT_AND_SCAN], REMAT_AND_SCAN))
def test_how_blocks_are_computed_changes_no_parameter_no_answer_and_no_gradient(params, changes):
    model = SMALL.clone(**changes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    out, expected = (jax.jit(m.apply)({"params": params}, X_T, T, LABEL) for m in (model, SMALL))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = gradient(model, params), gradient(SMALL, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)
    program = str(jax.make_jaxpr(lambda p: model.apply({"params": p}, X_T, T))(params))
    assert ("remat" in program, "scan" in program) == (model.remat, model.scan_blocks)


def test_bfloat16_is_close_over_float32_parameters(params):
    model = SMALL.clone(dtype=jnp.bfloat16)
    out = jax.jit(model.apply)({"params": params}, X_T, T, LABEL)
    exact = apply({"params": params}, X_T, T, LABEL)
    assert out.dtype == jnp.float32
    assert 0 < jnp.abs(out - exact).max() < 0.05 * jnp.abs(exact).max()
    types = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), X_T, T))
    assert {p.dtype for p in types} == {jnp.dtype("float32")}


def test_patches_are_squares_row_by_row():
    x = jnp.arange(24).reshape(1, 4, 6, 1)
    patches = into_patches(x, 2)
    np.testing.assert_array_equal(patches[0, :4], [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19]])
    np.testing.assert_array_equal(from_patches(patches, 2, 3, 2), x)


def test_positions_are_their_formula():
    made = positions(2, 3, 8)
    assert made.dtype == np.float32
    for row in range(2):
        for column in range(3):
            halves = [[f(place / 100**i) for f in (np.sin, np.cos) for i in (0, 1)] for place in (column, row)]
            np.testing.assert_allclose(made[3 * row + column], np.concatenate(halves), atol=1e-6)


def test_positions_of_a_grid_size_are_stretched_to_it():
    np.testing.assert_array_equal(positions(4, 4, 8, 4), positions(4, 4, 8))
    np.testing.assert_allclose(positions(8, 8, 8, 4).reshape(8, 8, 8)[::2, ::2], positions(4, 4, 8).reshape(4, 4, 8))


@pytest.mark.parametrize(
    ("changes", "shape", "context", "message"),
    [
        ({"num_heads": 3}, (1, 4, 4, 2), None, "16 channels .* num_heads 3: take num_heads 2"),
        ({"width": 18}, (1, 4, 4, 2), None, "model.width=18: .* multiple of 4, as 20"),
        ({"patch_size": 0}, (1, 4, 4, 2), None, "model.patch_size=0 must be at least 1"),
        ({"grid_size": 0}, (1, 4, 4, 2), None, "model.grid_size=0 must be at least 1"),
        ({"mlp_ratio": 0.0}, (1, 4, 4, 2), None, "model.mlp_ratio=0.0 must be above 0"),
        ({}, (1, 5, 4, 2), None, r"\[1, 5, 4, 2\]: patches of 2 take \[b h w c\] with h and w multiples of 2"),
        ({}, (4, 4, 2), None, r"\[4, 4, 2\]: patches of 2 take \[b h w c\]"),
        ({}, (1, 4, 4, 2), {"text": T[:1]}, r"\['text'\]: it reads \['label'\]"),
        ({"num_classes": None}, (1, 4, 4, 2), {"label": T[:1]}, r"num_classes None .* \['label'\]: it reads none"),
        (
            {"text_channels": 5},
            (1, 4, 4, 2),
            {"label": T[:1]},
            r"text_channels 5 .* \['label'\]: it reads \['label', 'te",
        ),
        ({"text_channels": 0}, (1, 4, 4, 2), None, "model.text_channels=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(changes, shape, context, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(SMALL.clone(**changes).init, jax.random.key(0), jnp.zeros(shape), T[:1], context)
