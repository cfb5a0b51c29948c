"""Halving and doubling against plain NumPy versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.models.resample import Upsample, convolve_doubled, convolve_doubled_by_parity, downsample


def randoms(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def test_downsample_pads_right_and_below():
    x, kernel, bias = randoms((2, 6, 4, 3), (3, 3, 3, 3), (3,))
    y = downsample(3).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 1), (0, 1), (0, 0)))
    assert y.shape == (2, 3, 2, 3)
    for i in range(3):
        for j in range(2):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected = np.einsum("bijc,ijcd->bd", window, kernel) + bias[None]
            np.testing.assert_allclose(y[:, i, j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 1, 3, 3), (2, 5, 2, 3)])
@pytest.mark.parametrize("convolve", [convolve_doubled, convolve_doubled_by_parity])
def test_upsample_convolves_the_doubled_image(convolve, shape):
    x, kernel = randoms(shape, (3, 3, 3, 5))
    b, h, w, _ = shape
    padded = np.pad(np.kron(np.asarray(x, np.float64), np.ones((1, 2, 2, 1))), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = convolve(x, kernel)
    assert y.shape == (b, 2 * h, 2 * w, 5)
    for i in range(2 * h):
        for j in range(2 * w):
            expected = np.einsum("bijc,ijcd->bd", padded[:, i : i + 3, j : j + 3], kernel)
            np.testing.assert_allclose(y[:, i, j], expected, rtol=1e-4, atol=1e-5)


def test_both_forms_of_upsample_have_the_same_gradients():
    x, kernel, weights = randoms((2, 4, 4, 3), (3, 3, 3, 5), (2, 8, 8, 5))

    def gradients(convolve):
        return jax.grad(lambda *args: (convolve(*args) * weights).sum(), (0, 1))(x, kernel)

    for ours, theirs in zip(gradients(convolve_doubled_by_parity), gradients(convolve_doubled), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_upsample_adds_its_bias():
    x, kernel, bias = randoms((1, 2, 2, 3), (3, 3, 3, 3), (3,))
    y = Upsample().apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, convolve_doubled(x, kernel) + bias[None, None, None], rtol=1e-4, atol=1e-5)
    assert Upsample(jnp.bfloat16).apply({"params": {"kernel": kernel, "bias": bias}}, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 4), ("cuda", 1), ("tpu", 1)])
def test_each_platform_gets_the_form_that_suits_it(platform, convolutions):
    x, kernel, bias = randoms((1, 2, 2, 3), (3, 3, 3, 3), (3,))
    traced = jax.jit(Upsample().apply).trace({"params": {"kernel": kernel, "bias": bias}}, x)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert program.count("stablehlo.convolution") == convolutions
