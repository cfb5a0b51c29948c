"""iDDPM's and ADM's networks: their published sizes, which of them a file holds, what they read, and their errors."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert import adm
from marble.convert.adm_published import ADM_64
from marble.convert.names import check, flat, shape_of
from marble.convert.tensors import Tensor
from marble.errors import InputError
from marble.models.adm import AdmClassifier, AdmUNet, log_prob
from marble.models.adm_blocks import AdmAttention, resampled, split_qkv
from marble.models.resample import resized
from marble.sampling.guidance import classifier_guided
from marble.typing import Level, Prediction

SMALL = AdmUNet(
    out_channels=2,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_heads=2,
    num_groups=4,
    resblock_updown=True,
)
LABELLED = SMALL.clone(num_classes=3)
CLASSIFIER = AdmClassifier(
    num_classes=5, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,), head_channels=4
).clone(num_groups=4)
X_T, T = jax.random.normal(jax.random.key(0), (3, 8, 8, 2)), jnp.array([0, 20, 999])
LABEL = jnp.array([0, 1, 2])

# What the papers' own code has, by the first file that holds it.
SIZES = {
    "cifar10_uncond_50M_500K.pt": 52_546_438,
    "imagenet64_uncond_100M_1500K.pt": 121_063_942,
    "imagenet64_cond_270M_250K.pt": 273_049_350,
    "lsun_uncond_100M_1200K_bs128.pt": 113_676_678,
    "upsample_cond_500K.pt": 279_792_390,
    "64x64_diffusion.pt": 295_904_454,
    "128x128_diffusion.pt": 421_529_606,
    "256x256_diffusion.pt": 553_838_086,
    "256x256_diffusion_uncond.pt": 552_814_086,
    "512x512_diffusion.pt": 558_997_638,
    "64_256_upsampler.pt": 311_795_910,
    "64x64_classifier.pt": 65_438_568,
    "128x128_classifier.pt": 42_568_040,
    "256x256_classifier.pt": 54_096_360,
    "512x512_classifier.pt": 54_448_360,
}


def size_of(shapes):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def file_of(model, image_size, image_channels=3):
    """The shapes of our parameters, and a file that has arrays of just these, which nobody reads."""
    shapes = adm.shapes_of(model, image_size, image_channels)
    ours = flat(shapes)
    named = {
        entry.theirs: Tensor(shape_of(ours[entry.ours].shape, entry.layout), np.dtype(np.float32), None)
        for entry in adm.table(model, image_size)
    }
    assert len(named) == len(ours)
    return shapes, named


@pytest.mark.parametrize("published", adm.PUBLISHED, ids=lambda published: published.files[0])
def test_published_models_have_their_size_and_are_known_by_their_arrays(published):
    shapes, tensors = file_of(published.model, published.image_size)
    expected = SIZES.get(published.files[0])
    assert size_of(shapes) == expected or published.files[0] == "128_512_upsampler.pt"
    found = adm.model_of(tensors)
    assert found[:4] == (published.model, published.image_size, 3, published)
    said = " ".join(found.assumed)
    assert published.files[0] in said and "heads_first" in said
    check(adm.table(found.model, found.image_size), tensors, shapes, source="it")


def test_edm_s_network_of_this_plan_has_as_many_parameters():
    # Karras et al. 2022 train ADM's network for 64x64 images without a learned variance.
    assert size_of(adm.shapes_of(ADM_64.clone(out_channels=3), 64)) == 295_899_267


@pytest.mark.parametrize("changes", [{"num_heads": 1}, {"num_classes": 7}, {"channel_mult": (1, 0.5, 2.5)}])
@pytest.mark.parametrize("resblock_updown", [True, False])
def test_other_models_are_read_too_and_what_is_not_known_is_said(changes, resblock_updown):
    model = SMALL.clone(channels=32, num_groups=16, resblock_updown=resblock_updown, head_channels=8, **changes)
    _, tensors = file_of(model, 24 if "channel_mult" in changes else 8, 2)
    with pytest.raises(InputError, match="x.pt is none of the published models.*: give image_size"):
        adm.model_of(tensors, source="x.pt")
    size = 8 if "channel_mult" not in changes else 24
    given = dict(num_heads=model.num_heads, heads_first=True)
    found = adm.model_of(tensors, image_size=size, **given)
    attending = () if size == 24 else (4,)
    expected = model.clone(head_channels=None, num_groups=32, attention_resolutions=attending)
    assert found == (expected, size, 2, None, ())
    said = adm.model_of(tensors, image_size=size).assumed
    assert said[0].startswith("head_channels 64: " if resblock_updown else "num_heads 4: ")
    assert said[1].startswith("heads_first True: ")


def test_a_classifier_s_file_says_its_images_sides():
    model = CLASSIFIER.clone(channels=64, head_channels=64)
    _, tensors = file_of(model, 8)
    found = adm.model_of(tensors, head_channels=64, heads_first=True)
    assert found == (model.clone(num_groups=32), 8, 3, None, ())
    with pytest.raises(InputError, match="images with sides of 8, not image_size 64"):
        adm.model_of(tensors, image_size=64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: None if "time_embed.0" in name else name, "x.pt has no time_embed.0.weight"),
        (lambda name: None if "emb_layers" in name else name, "x.pt has no input_blocks.1.0.emb_layers.1.weight"),
        (lambda name: None if "output_blocks.3" in name else name, "x.pt is no U-Net.*: its blocks are no levels"),
        (lambda name: None if "output_blocks" in name else name, "no way up and no attention pooling"),
        (lambda name: f"model.{name}", "x.pt is no U-Net"),
    ],
)
def test_files_of_something_else_are_refused(change, message):
    _, tensors = file_of(SMALL, 8, 2)
    changed = {change(name): tensor for name, tensor in tensors.items() if change(name)}
    with pytest.raises(InputError, match=message):
        adm.model_of(changed, image_size=8, source="x.pt")


def test_heads_are_given_by_one_number():
    with pytest.raises(InputError, match="num_heads 2 and head_channels 4: give one of them"):
        adm.model_of({}, num_heads=2, head_channels=4)


def random_params(model, *inputs):
    """Parameters none of which is zero, of a size at which every layer matters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.2 * rng.standard_normal(p.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def labelled_params():
    return random_params(LABELLED, X_T, T)


apply_labelled = jax.jit(LABELLED.apply)


def test_a_fresh_network_answers_zero():
    variables = jax.jit(SMALL.init)(jax.random.key(0), X_T, T)
    np.testing.assert_array_equal(jax.jit(SMALL.apply)(variables, X_T, T), jnp.zeros_like(X_T))


@pytest.mark.parametrize("other", [0, 2])
def test_images_do_not_see_each_other(labelled_params, other):
    out = apply_labelled({"params": labelled_params}, X_T, T, {"label": LABEL})
    changed = X_T.at[other].multiply(-3), T.at[other].set(7), {"label": LABEL.at[other].set(1)}
    changed = apply_labelled({"params": labelled_params}, *changed)
    kept = np.delete(np.arange(3), other)
    np.testing.assert_array_equal(changed[kept], out[kept])
    assert (changed[other] != out[other]).any()


def test_there_is_a_row_a_class_and_none_for_no_class(labelled_params):
    assert labelled_params["label"]["embedding"].shape == (3, 32)
    out = apply_labelled({"params": labelled_params}, X_T, T, {"label": jnp.array([0, 1, 3])})
    assert np.isfinite(out[:2]).all() and np.isnan(out[2]).all()


@pytest.mark.slow
def test_dropout_acts_in_training_alone_and_remat_changes_no_gradient():
    model = SMALL.clone(channel_mult=(1,), dropout=0.5)
    params = random_params(model, X_T, T)
    plain = jax.jit(model.clone(dropout=0.0).apply)({"params": params}, X_T, T)
    np.testing.assert_array_equal(jax.jit(model.apply)({"params": params}, X_T, T), plain)

    def gradient(model):
        def loss(params):
            out = model.apply({"params": params}, X_T, T, train=True, rngs={"dropout": jax.random.key(5)})
            return jnp.square(out).mean(), out

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (ours, out), (theirs, again) = gradient(model.clone(remat=True)), gradient(model)
    assert np.abs(out - plain).max() > 1e-3
    np.testing.assert_allclose(out, again, rtol=1e-4, atol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest), ours, theirs)


def test_a_smaller_image_is_read_where_the_model_is_made_for_it():
    model = SMALL.clone(reads_low_res=True)
    params = random_params(model, X_T, T)
    assert params["conv_in"]["kernel"].shape == (3, 3, 4, 8)
    apply = jax.jit(model.apply)
    small = jax.random.normal(jax.random.key(1), (3, 2, 4, 2))
    out = apply({"params": params}, X_T, T, {"low_res": small})
    np.testing.assert_allclose(apply({"params": params}, X_T, T, {"low_res": resized(small, (8, 8))}), out, rtol=1e-6)
    assert np.abs(apply({"params": params}, X_T, T, {"low_res": small + 1}) - out).max() > 1e-3


def test_resizing_is_linear_between_the_centres_of_pixels():
    ramp = jnp.arange(4.0)[None, :, None, None] + jnp.zeros((1, 4, 3, 1))
    # Pixel i of 8 lies at (i + 1/2) / 2 - 1/2 of those of 4; past the last centre the last value holds.
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(resized(ramp, (8, 5))[0, :, 2, 0], expected, rtol=1e-6)


def test_halving_takes_means_and_undoes_doubling():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(resampled(image, "down")[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(resampled(resampled(image, "up"), "down"), image)
    assert resampled(image, None) is image


@pytest.mark.parametrize("heads_first", [True, False])
def test_channels_of_qkv_stand_in_the_order_that_is_said(heads_first):
    named = np.array([[[part, head, c] for c in range(2)] for head in range(3) for part in range(3)])
    if not heads_first:
        named = np.array([[[part, head, c] for c in range(2)] for part in range(3) for head in range(3)])
    for place, numbers in enumerate(named.reshape(18, 3).T):
        qkv = jnp.asarray(numbers)[None, None]
        parts = np.stack(split_qkv(qkv, 3, heads_first=heads_first))[:, 0, 0]  # [3 heads C]
        np.testing.assert_array_equal(parts, np.indices((3, 3, 2))[place])


def test_with_one_head_the_order_of_qkv_does_not_matter():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8))
    one, other = (AdmAttention(1, heads_first=first, num_groups=4) for first in (True, False))
    params = random_params(one, x)
    np.testing.assert_array_equal(one.apply({"params": params}, x), other.apply({"params": params}, x))


def test_log_prob_is_that_of_the_label_and_guides():
    # Logits that are linear in the image have a gradient in closed form.
    rows = np.random.default_rng(0).standard_normal((12, 4))
    x_t, label = jnp.asarray(np.random.default_rng(1).standard_normal((2, 2, 2, 3)), jnp.float32), jnp.array([3, 0])
    logits = np.asarray(x_t).reshape(2, 12) @ rows
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(
        log_prob(jnp.asarray(logits, jnp.float32), label), np.log(odds[[0, 1], label]), rtol=1e-5
    )

    def log_prob_fn(x_t, level, context):
        return log_prob(x_t.reshape(2, 12) @ jnp.asarray(rows, jnp.float32), context["label"])

    level = Level(jnp.array(3), jnp.float32(0.8), jnp.float32(0.6))
    guided = classifier_guided(lambda x_t, level, context: Prediction(x_t, 0 * x_t), log_prob_fn, 2.0)
    expected = -2 * 0.6 * (rows.T[label] - odds @ rows.T).reshape(x_t.shape)
    np.testing.assert_allclose(guided(x_t, level, {"label": label}).eps, expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_sees_each_image_alone_and_its_noise():
    params = random_params(CLASSIFIER, X_T, T)
    apply = jax.jit(CLASSIFIER.apply)
    out = apply({"params": params}, X_T, T)
    assert out.shape == (3, 5) and out.dtype == jnp.float32
    changed = apply({"params": params}, X_T.at[1].multiply(2), T.at[2].set(5))
    np.testing.assert_array_equal(changed[0], out[0])
    assert np.abs(changed - out).max(axis=1)[1:].min() > 1e-3
    with pytest.raises(InputError, match="shrink to 16 pixels was given one that shrinks to 32: resize"):
        CLASSIFIER.apply({"params": params}, jnp.zeros((3, 8, 16, 2)), T)


def test_bfloat16_keeps_float32_parameters_and_answers(labelled_params):
    model = LABELLED.clone(dtype=jnp.bfloat16)
    out = jax.jit(model.apply)({"params": labelled_params}, X_T, T, {"label": LABEL})
    exact = apply_labelled({"params": labelled_params}, X_T, T, {"label": LABEL})
    assert out.dtype == jnp.float32
    assert 0 < jnp.abs(out - exact).max() < 0.05 * jnp.abs(exact).max()
    types = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), X_T, T))
    assert {p.dtype for p in types} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("changes", "shape", "context", "message"),
    [
        ({"channels": 30}, (1, 8, 8, 2), None, "30 channels .* num_groups 4: take 32 channels, or num_groups 3"),
        ({"num_heads": 3}, (1, 8, 8, 2), None, "16 channels .* num_heads 3: take num_heads 2"),
        ({"head_channels": 6}, (1, 8, 8, 2), None, "16 channels .* head_channels 6: take head_channels 4"),
        ({"head_channels": 0}, (1, 8, 8, 2), None, "head_channels=0 must be at least 1"),
        ({"channel_mult": (1, 0.3)}, (1, 8, 8, 2), None, "8 \\* 0.3 is not whole"),
        ({}, (1, 9, 8, 2), None, r"\[1, 9, 8, 2\]: 2 levels take \[b h w c\] with h and w multiples of 2"),
        ({}, (1, 8, 8, 2), {"label": T[:1]}, r"num_classes None .* context \['label'\]: it reads none"),
        (
            {"reads_low_res": True},
            (1, 8, 8, 2),
            {"low_res": jnp.zeros((1, 4, 4, 3))},
            r"low_res of shape \[1, 4, 4, 3\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(changes, shape, context, message):
    model = SMALL.clone(**changes)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape), T[:1], context)


@pytest.mark.parametrize("context", [None, {}, {"text": T}])
def test_a_label_is_needed_where_the_model_has_classes(labelled_params, context):
    with pytest.raises(InputError, match=r"num_classes 3 .*: it reads \['label'\]"):
        LABELLED.apply({"params": labelled_params}, X_T, T, context)


def test_other_models_have_no_table_here():
    @dataclasses.dataclass
    class Other:
        pass

    with pytest.raises(InputError, match="Other has no table here"):
        adm.table(Other(), 8)
