"""The U-Net: its size, what it starts as, what its answer does and doesn't depend on, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models import UNet

SMALL = UNet(
    out_channels=2, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,), num_groups=4
)
LABELLED = SMALL.clone(num_classes=3)
X_T, T = jax.random.normal(jax.random.key(0), (3, 8, 8, 2)), jnp.array([0, 20, 999])


def random_params(model):
    """Parameters none of which is zero, of a size at which every layer matters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.2 * rng.standard_normal(p.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


@pytest.fixture(scope="module")
def labelled_params():
    return random_params(LABELLED)


apply = jax.jit(SMALL.apply)
apply_labelled = jax.jit(LABELLED.apply)


@pytest.mark.parametrize(
    ("model", "size", "count"),
    [(UNet(), 32, 35_746_307), (UNet(channel_mult=(1, 1, 2, 2, 4, 4)), 256, 113_673_219)],
)
def test_the_paper_s_networks_have_the_paper_s_size(model, size, count):
    # Ho et al. 2020, appendix B: 35.7M for CIFAR-10, 114M for 256x256; the counts are the reference code's.
    x_t, t = jnp.zeros((1, size, size, 3)), jnp.zeros((1,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), x_t, t)
    assert sum(p.size for p in jax.tree.leaves(params)) == count


def test_classes_add_their_rows_and_one_for_none(params, labelled_params):
    assert labelled_params["label"]["rows"]["embedding"].shape == (4, 32)
    assert set(labelled_params) == {*params, "label"}


def test_a_fresh_network_answers_zero():
    variables = jax.jit(SMALL.init)(jax.random.key(0), X_T, T)
    np.testing.assert_array_equal(apply(variables, X_T, T), jnp.zeros_like(X_T))


def test_the_answer_depends_on_image_and_time(params):
    out = apply({"params": params}, X_T, T)
    assert out.shape == X_T.shape and out.dtype == jnp.float32
    for other in (apply({"params": params}, X_T + 0.1, T), apply({"params": params}, X_T, T + 5)):
        assert jnp.abs(other - out).max(axis=(1, 2, 3)).min() > 1e-3


def test_time_may_be_a_float(params):
    out = apply({"params": params}, X_T, T)
    np.testing.assert_array_equal(apply({"params": params}, X_T, T.astype(jnp.float32)), out)


@pytest.mark.parametrize("other", [0, 2])
def test_images_do_not_see_each_other(labelled_params, other):
    label = jnp.array([0, 1, 2])
    out = apply_labelled({"params": labelled_params}, X_T, T, {"label": label})
    changed = X_T.at[other].multiply(-3), T.at[other].set(7), {"label": label.at[other].set(3)}
    changed = apply_labelled({"params": labelled_params}, *changed)
    kept = np.delete(np.arange(3), other)
    np.testing.assert_array_equal(changed[kept], out[kept])
    assert (changed[other] != out[other]).any()


def test_no_label_is_the_null_class(labelled_params):
    null = {"label": jnp.full(3, 3)}
    out = apply_labelled({"params": labelled_params}, X_T, T, null)
    for context in (None, {}):
        np.testing.assert_array_equal(apply_labelled({"params": labelled_params}, X_T, T, context), out)
    labelled = apply_labelled({"params": labelled_params}, X_T, T, {"label": jnp.array([0, 1, 2])})
    assert jnp.abs(labelled - out).max(axis=(1, 2, 3)).min() > 1e-3


def test_without_its_rows_a_labelled_network_is_the_plain_one(params, labelled_params):
    rows = jnp.zeros_like(labelled_params["label"]["rows"]["embedding"])
    silent = {**params, "label": {"rows": {"embedding": rows}}}
    out = apply_labelled({"params": silent}, X_T, T, {"label": jnp.array([0, 1, 2])})
    np.testing.assert_array_equal(out, apply({"params": params}, X_T, T))


def test_bfloat16_is_close_over_float32_parameters(params):
    model = SMALL.clone(dtype=jnp.bfloat16)
    out = jax.jit(model.apply)({"params": params}, X_T, T)
    exact = apply({"params": params}, X_T, T)
    assert out.dtype == jnp.float32
    assert 0 < jnp.abs(out - exact).max() < 0.05 * jnp.abs(exact).max()
    types = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), X_T, T))
    assert {p.dtype for p in types} == {jnp.dtype("float32")}


def test_remat_changes_no_parameter_and_no_gradient():
    plain = SMALL.clone(dropout=0.5, channel_mult=(1,))
    remat = plain.clone(remat=True)
    params = random_params(plain)
    assert jax.tree.structure(random_params(remat)) == jax.tree.structure(params)

    def gradient(model):
        def loss(params):
            out = model.apply({"params": params}, X_T, T, train=True, rngs={"dropout": jax.random.key(5)})
            return jnp.square(out).mean()

        return jax.jit(jax.grad(loss))(params)

    ours, theirs = gradient(remat), gradient(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)
    assert "remat" in str(jax.make_jaxpr(lambda p: remat.apply({"params": p}, X_T, T))(params))


def test_dropout_acts_in_training_alone(params):
    model = SMALL.clone(dropout=0.5)
    out = apply({"params": params}, X_T, T)
    np.testing.assert_array_equal(jax.jit(model.apply)({"params": params}, X_T, T), out)
    train = jax.jit(lambda key: model.apply({"params": params}, X_T, T, train=True, rngs={"dropout": key}))
    one, other = (train(jax.random.key(seed)) for seed in (0, 1))
    assert (one != out).any() and (one != other).any()
    np.testing.assert_array_equal(train(jax.random.key(0)), one)


def test_other_times_need_no_other_program(params):
    traces = 0

    @jax.jit
    def counted(x_t, t):
        nonlocal traces
        traces += 1
        return SMALL.apply({"params": params}, x_t, t)

    for t in (T, T + 3, T * 0):
        counted(X_T, t)
    assert traces == 1


@pytest.mark.parametrize(
    ("changes", "shape", "context", "message"),
    [
        ({"channels": 30}, (1, 8, 8, 2), None, "30 channels .* num_groups 4: take 32 channels, or num_groups 3"),
        ({"num_heads": 3}, (1, 8, 8, 2), None, "16 channels .* num_heads 3: take num_heads 2"),
        ({}, (1, 9, 8, 2), None, r"\[1, 9, 8, 2\]: 2 levels take \[b h w c\] with h and w multiples of 2"),
        ({"patch_size": 2}, (1, 10, 8, 2), None, r"2 levels take \[b h w c\] with h and w multiples of 4"),
        ({}, (8, 8, 2), None, r"\[8, 8, 2\]: 2 levels take \[b h w c\]"),
        ({}, (1, 8, 8, 2), {"label": T[:1]}, r"num_classes None was given the context \['label'\]: it reads none"),
        ({"num_classes": 3}, (1, 8, 8, 2), {"text": T[:1]}, r"\['text'\]: it reads \['label'\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(changes, shape, context, message):
    model = SMALL.clone(**changes)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape), T[:1], context)


def test_patches_are_pixels_of_more_channels():
    """The same parameters as a model of images of half the size, whose pixels hold the four of a square."""
    of_patches, plain = (
        SMALL.clone(reads_low_res=True, patch_size=size, out_channels=channels) for size, channels in ((2, 2), (1, 8))
    )
    x_t = jax.random.normal(jax.random.key(1), (3, 16, 8, 2))
    low_res = jax.random.normal(jax.random.key(2), x_t.shape)  # of the same size, so that it is read as it is

    def squares(x):
        return x.reshape(3, 8, 2, 4, 2, -1).transpose(0, 1, 3, 2, 4, 5)  # [b rows columns 2 2 c]

    both = squares(jnp.concatenate([x_t, low_res], axis=-1))
    beside = {"low_res": jnp.zeros((3, 8, 4, 0))}
    params = jax.eval_shape(of_patches.init, jax.random.key(0), x_t, T, {"low_res": low_res})["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(0.2 * rng.standard_normal(p.shape), jnp.float32), params)
    found = jax.jit(of_patches.apply)({"params": params}, x_t, T, {"low_res": low_res})
    expected = jax.jit(plain.apply)({"params": params}, both.reshape(3, 8, 4, 16), T, beside)
    assert found.shape == x_t.shape and np.abs(found).max() > 0.1
    np.testing.assert_allclose(squares(found).reshape(3, 8, 4, 8), expected, rtol=1e-5, atol=1e-5)


def test_a_small_image_is_added_to_where_the_model_is_made_for_it():
    """A fresh network answers with interpolation; a trained one, with what it adds."""
    small = jax.random.normal(jax.random.key(2), (3, 4, 4, 2))
    reading = SMALL.clone(reads_low_res=True)
    adding = reading.clone(adds_low_res=True)
    interpolated = jax.image.resize(small, X_T.shape, "bilinear")
    variables = jax.jit(adding.init)(jax.random.key(0), X_T, T, {"low_res": small})
    answer = lambda model, variables: jax.jit(model.apply)(variables, X_T, T, {"low_res": small})  # noqa: E731
    np.testing.assert_allclose(answer(adding, variables), interpolated, atol=1e-6)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    np.testing.assert_allclose(answer(adding, moved), answer(reading, moved) + interpolated, atol=1e-5)
    assert np.abs(answer(reading, moved)).max() > 0.1
    with pytest.raises(InputError, match="adds what the model does not read: set model.reads_low_res=True"):
        SMALL.clone(adds_low_res=True).init(jax.random.key(0), X_T, T)


def test_an_earlier_estimate_is_read_where_the_model_is_made_for_it():
    model = SMALL.clone(reads_x_0=True)
    params = random_params(model)
    answer = lambda context: jax.jit(model.apply)({"params": params}, X_T, T, context)  # noqa: E731
    np.testing.assert_array_equal(answer(None), answer({"x_0": jnp.zeros_like(X_T)}))
    assert np.abs(answer(None) - answer({"x_0": X_T})).max() > 1e-3
    with pytest.raises(InputError, match="reads none"):
        SMALL.apply({"params": params}, X_T, T, {"x_0": X_T})
