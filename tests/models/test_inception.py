"""FID's Inception: its size, the poolings that are its own, and each kind of block beside a plain one of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.errors import InputError
from marble.models.inception import (
    ConvUnit,
    Inception,
    MixedA,
    MixedB,
    MixedC,
    MixedD,
    MixedE,
    averaged,
    halved,
)

RNG = np.random.default_rng(0)


def drawn(model, x):
    """Numbers of every array; variances are above 0."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]

    def draw(path, leaf):
        numbers = rng.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 1) ** 0.5
        return np.asarray(np.exp(numbers) if path[-1].key in ("var", "scale") else numbers, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def convolved(x, params, stride=1, valid=False):
    """relu(norm(conv(x))) as sums over the kernel's places, in float64."""
    kernel, norm = np.float64(params["conv"]["kernel"]), {k: np.float64(v) for k, v in params["bn"].items()}
    rows, columns = kernel.shape[:2]
    pads = (0, 0) if valid or stride > 1 else (rows // 2, columns // 2)
    x = np.pad(np.float64(x), ((0, 0), (pads[0],) * 2, (pads[1],) * 2, (0, 0)))
    h, w = ((x.shape[1 + axis] - kernel.shape[axis]) // stride + 1 for axis in (0, 1))
    y = sum(
        x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride] @ kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    )
    y = (y - norm["mean"]) / np.sqrt(norm["var"] + 1e-3) * norm["scale"] + norm["bias"]
    return np.maximum(y, 0)


def neighbours(x, reduce):
    """reduce of those of the 3x3 places that there are."""
    b, h, w, c = x.shape
    y = np.empty(x.shape)
    for i in range(h):
        for j in range(w):
            y[:, i, j] = reduce(x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].reshape(b, -1, c), axis=1)
    return y


def every_second(x):
    h, w = ((side - 3) // 2 + 1 for side in x.shape[1:3])
    parts = [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for i in range(h) for j in range(w)]
    return np.stack(parts, 1).reshape(len(x), h, w, -1)


def chained(x, params, *names, **last):
    for name in names:
        x = convolved(x, params[name], **(last if name == names[-1] else {}))
    return x


def block_a(x, p):
    five = chained(x, p, "branch5x5_1", "branch5x5_2")
    three = chained(x, p, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return [chained(x, p, "branch1x1"), five, three, chained(neighbours(x, np.mean), p, "branch_pool")]


def block_b(x, p):
    three = chained(x, p, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2)
    return [chained(x, p, "branch3x3", stride=2), three, every_second(x)]


def block_c(x, p):
    seven = chained(x, p, "branch7x7_1", "branch7x7_2", "branch7x7_3")
    twice = chained(x, p, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
    return [chained(x, p, "branch1x1"), seven, twice, chained(neighbours(x, np.mean), p, "branch_pool")]


def block_d(x, p):
    seven = chained(x, p, *(f"branch7x7x3_{i}" for i in range(1, 5)), stride=2)
    return [chained(x, p, "branch3x3_1", "branch3x3_2", stride=2), seven, every_second(x)]


def block_e(x, p, reduce):
    three, twice = chained(x, p, "branch3x3_1"), chained(x, p, "branch3x3dbl_1", "branch3x3dbl_2")
    ends = [chained(three, p, f"branch3x3_2{end}") for end in "ab"]
    ends += [chained(twice, p, f"branch3x3dbl_3{end}") for end in "ab"]
    return [chained(x, p, "branch1x1"), *ends, chained(neighbours(x, reduce), p, "branch_pool")]


@pytest.mark.parametrize(
    "model, plain",
    [
        (MixedA(32), block_a),
        (MixedB(), block_b),
        (MixedC(128), block_c),
        (MixedD(), block_d),
        (MixedE("average"), lambda x, p: block_e(x, p, np.mean)),
        (MixedE("max"), lambda x, p: block_e(x, p, np.max)),
    ],
    ids=["A", "B", "C", "D", "E average", "E max"],
)
def test_each_block_is_its_branches_side_by_side(model, plain):
    x = np.float32(RNG.normal(size=(2, 7, 8, 5)))
    params = drawn(model, x)
    expected = np.concatenate(plain(x, params), axis=-1)
    found = jax.jit(model.apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_a_row_of_seven_lies_along_the_width():
    kernel = jax.eval_shape(MixedC(128).init, jax.random.key(0), jnp.zeros((1, 7, 8, 5)))["params"]
    assert kernel["branch7x7_2"]["conv"]["kernel"].shape == (1, 7, 128, 128)
    assert kernel["branch7x7dbl_2"]["conv"]["kernel"].shape == (7, 1, 128, 128)


def test_averages_count_only_what_there_is():
    x = RNG.normal(size=(2, 5, 4, 3))
    np.testing.assert_allclose(averaged(jnp.asarray(x)), neighbours(x, np.mean), atol=1e-6)
    np.testing.assert_allclose(averaged(jnp.ones((1, 1, 3, 1))), 1)
    np.testing.assert_array_equal(halved(jnp.asarray(x, jnp.float32)), every_second(np.float32(x)))


def test_a_stride_pads_nothing():
    x = np.float32(RNG.normal(size=(1, 8, 9, 3)))
    model = ConvUnit(4, (3, 3), stride=2)
    params = drawn(model, x)
    np.testing.assert_allclose(model.apply({"params": params}, x), convolved(x, params, stride=2), atol=1e-5)


def test_published_sizes():
    """The parameters of the paper's network without its second head are 23,834,568 of 1000 classes; 8 more are 16,392.

    Running means and variances are counted beside, one of each for every bias of a norm.
    """
    image = jnp.zeros((2, 299, 299, 3))
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        sizes[path[-1].key] = sizes.get(path[-1].key, 0) + leaf.size
    assert sum(sizes.values()) - sizes["mean"] - sizes["var"] == 23_834_568 + 8 * 2049
    assert sizes["mean"] == sizes["var"] == sizes["bias"] == sizes["scale"]
    states = jax.eval_shape(Inception().apply, {"params": shapes}, image)
    assert [a.shape for a in states] == [(2, 2048), (2, 2023), (2, 1008), (2, 1008)]


@pytest.mark.parametrize("shape", [(1, 74, 99, 3), (1, 99, 99, 1), (99, 99, 3)])
def test_what_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match=r"must be \[b h w 3\], h and w at least 75: resize them to 299"):
        jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros(shape))


def test_the_smallest_image_leaves_a_feature():
    shapes = jax.eval_shape(Inception().init_with_output, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))[0]
    assert shapes.features.shape == (1, 2048) and shapes.spatial.shape == (1, 3 * 3 * 7)
