"""The compressor of a pipeline: the same pixels, or one clear line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.compression import format
from marble.conditioning import Identity, Labels, Unconditional
from marble.diffusion import from_curve, linear
from marble.errors import InputError
from marble.models import UNet
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig, lossless
from marble.sampling import Ancestral

COUNT = lossless.BATCH_SIZE + 3


def pipeline(seed=1, num_classes=None, label_dropout=0.0, **options):
    small = dict(out_channels=1, channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
    model = UNet(**small, attention_resolutions=(), num_classes=num_classes)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    added = [0.05 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    params = tree.unflatten(map(jnp.add, leaves, added))
    codec = Identity(ImageSpec(shape=(8, 8, 1), levels=17))
    conditioner = Labels(num_classes, label_dropout) if num_classes else Unconditional()
    config = SamplingConfig(batch_size=16)
    options = {"schedule": linear(20), "codec": codec, "conditioner": conditioner, "config": config, **options}
    return DiffusionPipeline(model=model, params=params, sampler=Ancestral(), **options)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 17, (COUNT, 8, 8, 1))


@pytest.fixture(scope="module")
def compressor():
    return lossless.LosslessCompressor(pipeline())


@pytest.fixture(scope="module")
def allocation(compressor, pixels):
    return compressor.allocate(pixels[:64], num_steps=4)


@pytest.fixture(scope="module")
def compressed(compressor, pixels, allocation):
    return compressor.compress(pixels, allocation, seed=7)


def test_the_pixels_come_back_from_a_compressor_of_its_own(compressed, pixels):
    images, exact = lossless.LosslessCompressor(pipeline()).decompress(compressed.data)
    assert exact
    np.testing.assert_array_equal(images, pixels)


@pytest.mark.slow
def test_in_64_bits_the_file_is_the_same(compressed, pixels, allocation):
    """JAX_ENABLE_X64 changes neither the program nor the coefficients of the chain."""
    with jax.enable_x64(True):
        wide = lossless.LosslessCompressor(pipeline())
        assert wide.compress(pixels, allocation, seed=7).data == compressed.data
        np.testing.assert_array_equal(wide.decompress(compressed.data)[0], pixels)


def test_the_file_is_little_more_than_its_ideal_length(compressed):
    assert 0 <= len(compressed.data) - compressed.ideal_bits / 8 < 120


def test_the_same_images_are_the_same_file(compressor, pixels, allocation, compressed):
    assert compressor.compress(pixels, allocation, seed=7).data == compressed.data
    assert compressor.compress(pixels, allocation, seed=8).data != compressed.data


def test_every_prefix_decodes(compressor, compressed, pixels):
    shortest = format.header_size(compressed.data)
    for size in np.linspace(shortest, len(compressed.data) - 1, 5).astype(int):
        images, exact = compressor.decompress(compressed.data[:size], prefix=True)
        assert not exact and images.shape == pixels.shape and abs(images).max() <= 1
    whole, exact = compressor.decompress(compressed.data, prefix=True)
    assert exact and (whole == pixels).all()


def test_another_model_is_refused(compressed):
    with pytest.raises(InputError, match="of another model"):
        lossless.LosslessCompressor(pipeline(seed=2)).decompress(compressed.data)


def test_another_program_is_refused(compressed, monkeypatch):
    monkeypatch.setattr(lossless, "version", lambda name: "99")
    with pytest.raises(InputError, match="made by another program"):
        lossless.LosslessCompressor(pipeline()).decompress(compressed.data)


def test_a_network_that_computes_otherwise_is_refused(compressor, compressed, monkeypatch):
    plain = compressor._network
    monkeypatch.setattr(compressor, "_network", lambda params, x_t, t: np.nextafter(plain(params, x_t, t), 2))
    with pytest.raises(InputError, match="made by another program"):
        compressor.decompress(compressed.data)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 8, 8, 1), int), "n at least 1"),
        (np.zeros((2, 8, 9, 1), int), "8, 9, 1"),
        (np.zeros((2, 8, 8, 1)), "integers from 0 to 16"),
        (np.full((2, 8, 8, 1), 17), "integers from 0 to 16"),
        (np.full((2, 8, 8, 1), -1), "integers from 0 to 16"),
    ],
)
def test_wrong_images_are_refused(compressor, allocation, images, message):
    with pytest.raises(InputError, match=message):
        compressor.compress(images, allocation)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(compressor, allocation, pixels, seed):
    with pytest.raises(InputError, match=f"seed={seed}"):
        compressor.compress(pixels, allocation, seed=seed)


def test_a_model_that_can_not_compress_is_refused_by_its_kind():
    class VAEPipeline:
        pass

    for pipe, message in (
        (VAEPipeline(), "this is a VAEPipeline"),
        (pipeline(schedule=from_curve(lambda t: 6 - 16 * t)), "this one is in continuous time"),
        (pipeline(num_classes=3), "needs a model that was trained with and without labels .training.label_dropout"),
    ):
        with pytest.raises(InputError, match=message):
            lossless.LosslessCompressor(pipe)


def test_a_model_of_classes_predicts_by_its_null_class(pixels):
    pipe = pipeline(num_classes=3, label_dropout=0.1)
    found = lossless.LosslessCompressor(pipe)._predict(pixels[:2].astype(np.float32).reshape(2, -1) / 8 - 1, 5)
    null = pipe.denoise(pixels[:2].astype(np.float32) / 8 - 1, 5, {"label": np.array([3, 3])}).x_0
    np.testing.assert_allclose(found.reshape(2, 8, 8, 1), np.clip(null, -1, 1), atol=1e-5)
