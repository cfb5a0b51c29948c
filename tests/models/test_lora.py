"""Adapters of kernels against what they do to activations (Hu et al. 2021)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.conditional_unet import ConditionalUNet
from marble.models.lora import Lora, init, merged, num_parameters, targeted
from marble.models.unet import UNet

SIZES = {
    "conv": {"kernel": (3, 3, 5, 7), "bias": (7,)},
    "block": {"attention": {"query": {"kernel": (6, 4)}, "proj": {"kernel": (4, 6), "bias": (6,)}}},
    "norm": {"scale": (6,), "bias": (6,)},
}
ALL = ("kernel",)


def shapes():
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32), SIZES, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


def random(tree, seed=0):
    """Numbers for a tree of shapes."""
    draw = np.random.default_rng(seed).standard_normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf.shape), jnp.float32), tree)


def adapted(lora, seed=1):
    return random(init(lora, shapes(), jax.random.key(0)), seed)


@pytest.mark.parametrize(
    ("lora", "scaling"), [(Lora(2, None, ALL), 1), (Lora(3, 6.0, ALL), 2), (Lora(4, 1, ALL), 0.25)]
)
@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
def test_a_dense_layer_says_what_it_did_and_the_product_of_two_more(lora, scaling, scale):
    params, adapters = random(shapes()), adapted(lora)
    x = random(jax.ShapeDtypeStruct((9, 6), jnp.float32), 2)
    pair = adapters["block"]["attention"]["query"]["kernel"]
    kernel = params["block"]["attention"]["query"]["kernel"]
    expected = x @ kernel + scale * scaling * ((x @ pair["down"]) @ pair["up"])
    found = jax.jit(lambda a, s: merged(lora, params, a, s)["block"]["attention"]["query"]["kernel"])(adapters, scale)
    np.testing.assert_allclose(x @ found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_says_what_it_did_and_two_convolutions_more(stride):
    lora = Lora(2, 3.0, ALL)
    params, pair = random(shapes()), adapted(lora)["conv"]["kernel"]
    x = random(jax.ShapeDtypeStruct((2, 6, 8, 5), jnp.float32), 2)
    whole = nn.Conv(7, (3, 3), (stride, stride)).apply
    narrow = nn.Conv(2, (3, 3), (stride, stride), use_bias=False).apply({"params": {"kernel": pair["down"]}}, x)
    added = nn.Conv(7, (1, 1), use_bias=False).apply({"params": {"kernel": pair["up"][None, None]}}, narrow)
    expected = whole({"params": params["conv"]}, x) + 1.5 * added
    found = whole({"params": merged(lora, params, adapted(lora))["conv"]}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fresh_adapters_and_a_strength_of_0_are_the_base(dtype):
    lora = Lora(2, None, ALL)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), random(shapes()))
    fresh = init(lora, shapes(), jax.random.key(3))
    without = jax.jit(lambda s: merged(lora, params, adapted(lora), s))(0.0)
    for found in (merged(lora, params, fresh), without):
        jax.tree.map(np.testing.assert_array_equal, found, params)
        assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, params)


def test_leaves_without_an_adapter_are_the_same_objects():
    lora, params = Lora(2), random(shapes())
    found = merged(lora, params, adapted(lora))
    assert found["conv"]["kernel"] is params["conv"]["kernel"]
    assert found["norm"]["scale"] is params["norm"]["scale"]
    assert found["block"]["attention"]["proj"]["bias"] is params["block"]["attention"]["proj"]["bias"]
    assert found["block"]["attention"]["proj"]["kernel"] is not params["block"]["attention"]["proj"]["kernel"]


def test_a_bfloat16_kernel_is_summed_in_float32_and_rounded_once():
    lora = Lora(3, 2.0, ALL)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random(shapes()))
    adapters = adapted(lora)
    pair = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), adapters["conv"]["kernel"])
    exact = np.asarray(params["conv"]["kernel"], np.float64) + 2 / 3 * pair["down"] @ pair["up"]
    found = merged(lora, params, adapters)["conv"]["kernel"]
    assert found.dtype == jnp.bfloat16
    # Half of the last of 8 bits
    assert (np.abs(np.asarray(found, np.float64) - exact) <= 2**-8 * 1.001 * np.abs(exact) + 1e-6).all()


def test_gradients_are_those_of_the_product_and_flow_into_both():
    lora, params = Lora(2, 4.0), random(shapes())
    adapters = adapted(lora)
    weight = random(params["block"]["attention"]["query"]["kernel"], 5)

    def loss(adapters, scale):
        return (merged(lora, params, adapters, scale)["block"]["attention"]["query"]["kernel"] * weight).sum()

    gradient, of_scale = jax.jit(jax.grad(loss, argnums=(0, 1)))(adapters, 0.5)
    found, pair = (tree["block"]["attention"]["query"]["kernel"] for tree in (gradient, adapters))
    np.testing.assert_allclose(found["down"], weight @ pair["up"].T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["up"], pair["down"].T @ weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_scale, 2 * (weight * (pair["down"] @ pair["up"])).sum(), rtol=1e-4)
    first = jax.grad(loss)(init(lora, shapes(), jax.random.key(0)), 1.0)["block"]["attention"]["query"]["kernel"]
    assert np.abs(first["up"]).max() > 0 and np.abs(first["down"]).max() == 0


def test_several_adapters_add():
    one, other = Lora(2, 3.0, ALL), Lora(3, None, ALL)
    params, a, b = random(shapes()), adapted(one, 1), adapted(other, 2)
    found = merged(other, merged(one, params, a, 0.5), b, 2.0)
    alone = [merged(one, params, a, 0.5), merged(other, params, b, 2.0)]
    expected = jax.tree.map(lambda w, x, y: x + y - w, params, *alone)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected)


def test_a_pair_is_drawn_by_its_path_alone():
    few, all_ = Lora(2, None, ("query",)), Lora(2, None, ALL)
    here, there = (init(lora, shapes(), jax.random.key(7))["block"]["attention"] for lora in (few, all_))
    np.testing.assert_array_equal(here["query"]["kernel"]["down"], there["query"]["kernel"]["down"])
    other = init(few, shapes(), jax.random.key(8))["block"]["attention"]
    assert (other["query"]["kernel"]["down"] != here["query"]["kernel"]["down"]).any()
    wide = {name: {"kernel": jax.ShapeDtypeStruct((300, 8), jnp.float32)} for name in "ab"}
    drawn = init(Lora(16, None, ALL), wide, jax.random.key(0))
    a, b = (np.asarray(drawn[name]["kernel"]["down"]) for name in "ab")
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)
    assert abs(a.std() * 16 - 1) < 5 / np.sqrt(2 * a.size) and abs(a.mean() * 16) < 5 / np.sqrt(a.size)


def test_the_numbers_that_are_trained_are_rank_times_in_and_out():
    adapters = init(Lora(5, None, ALL), shapes(), jax.random.key(0))
    assert num_parameters(adapters) == 5 * ((9 * 5 + 7) + (6 + 4) + (4 + 6))


def test_by_default_the_attentions_of_the_transformers_are_adapted():
    model = ConditionalUNet()  # SD 1.x
    x_t, text = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((1, 77, 768), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    sd = jax.eval_shape(model.init, jax.random.key(0), x_t, t, {"text": text})["params"]
    found = targeted(Lora(4), sd)
    # 16 transformers of one block, two attentions of four kernels each
    assert len(found) == 16 * 2 * 4
    assert all("_attention/" in path and path.endswith("/kernel") for path in found)
    adapters = jax.eval_shape(lambda key: init(Lora(4), sd, key), jax.random.key(0))
    # Transformers by their width: 4 kernels [w w] to themselves; to the text 2 of [w w] and 2 of [768 w]
    by_width = {320: 5, 640: 5, 1280: 6}
    expected = sum(n * 4 * (4 * 2 * w + 2 * 2 * w + 2 * (768 + w)) for w, n in by_width.items())
    assert num_parameters(adapters) == expected == 797_184  # what diffusers' scripts print for it


def test_by_default_the_attentions_of_pixels_are_adapted():
    sizes = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
    model = UNet(out_channels=3, attention_resolutions=(4,), **sizes)
    inputs = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    found = targeted(Lora(4), jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"])
    # One on the way down, one in the middle, two on the way up
    assert len(found) == 4 * 4 and {path.split("/")[-2] for path in found} == {"query", "key", "value", "proj"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rank=0), "lora.rank=0 must be"),
        (dict(rank=2.0), "lora.rank=2.0 must be"),
        (dict(rank=True), "lora.rank=True must be"),
        (dict(rank=1, alpha=0.0), "lora.alpha=0.0 must be"),
        (dict(rank=1, alpha=float("nan")), "lora.alpha=nan must be"),
        (dict(rank=1, alpha="8"), "lora.alpha='8' must be"),
        (dict(rank=1, targets=()), r"lora.targets=\(\) must be"),
        (dict(rank=1, targets="query"), "lora.targets='query' must be a list"),
        (dict(rank=1, targets=("(query",)), r"lora.targets='\(query' is no regular expression"),
    ],
)
def test_what_is_no_lora_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Lora(**fields)


def test_a_target_that_is_nowhere_is_refused():
    with pytest.raises(InputError, match="'atention/query/kernel' is in no .*did you mean 'attention/query/kernel'"):
        init(Lora(2, None, ("conv", "atention/query/kernel")), shapes(), jax.random.key(0))
    with pytest.raises(InputError, match="'norm' is in no kernel's path"):
        init(Lora(2, None, ("norm",)), shapes(), jax.random.key(0))


def test_adapters_that_do_not_fit_are_refused():
    lora, params = Lora(2), random(shapes())
    good = adapted(lora)
    with pytest.raises(InputError, match=r"lora.rank=3 is that of no adapter; theirs are \[2\]"):
        merged(Lora(3), params, good)
    with pytest.raises(InputError, match="block/attention/proj/kernel is of no kernel"):
        merged(lora, {"conv": params["conv"]}, good)
    wrong = {"conv": {"kernel": good["block"]["attention"]["query"]["kernel"]}}
    with pytest.raises(InputError, match=r"conv/kernel has down \[6, 2\] and up \[2, 4\], and its kernel is \[3, 3"):
        merged(lora, params, wrong)
    with pytest.raises(InputError, match=r"conv/kernel is \['down'\], and must be a pair"):
        merged(lora, params, {"conv": {"kernel": {"down": np.zeros((6, 2))}}})
    with pytest.raises(InputError, match="no product of them"):
        merged(lora, params, {"conv": {"kernel": {"down": np.zeros((6, 2)), "up": np.zeros((3, 4))}}})
