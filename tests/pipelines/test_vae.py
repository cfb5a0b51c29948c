"""The autoencoder in use: images that depend on their index alone, and bits that are those of probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble import vae
from marble.data.preprocess import to_float, to_uint8
from marble.errors import InputError
from marble.models import VAE
from marble.pipelines import ImageSpec, VAEPipeline, VAESamplingConfig


def pipeline(
    shape=(8, 8, 1), levels=17, likelihood=vae.DISCRETISED_LOGISTIC, latent_size=4, mult=(1, 2), size=0.2, **config
):
    model = VAE(image_shape=shape, latent_size=latent_size, channels=4, channel_mult=mult, num_groups=2)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: size * rng.normal(size=leaf.shape).astype(np.float32), params)
    return VAEPipeline(
        model=model,
        params=params,
        likelihood=likelihood,
        image=ImageSpec(shape, levels),
        config=VAESamplingConfig(**{"batch_size": 16, **config}),
    )


@pytest.fixture(scope="module")
def pipe():
    return pipeline(size=0.5)


IMAGES = np.random.default_rng(0).integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)


def test_images_are_uint8_at_the_data_s_levels_and_floats_on_request(pipe):
    images, floats = pipe.sample(5), pipe.sample(5, as_float=True)
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8 and floats.dtype == np.float32
    np.testing.assert_array_equal(images, to_uint8(floats, 17))
    assert len(np.unique(images)) > 3


def test_image_i_is_the_same_in_any_number_from_any_start(pipe):
    many = pipe.sample(40, seed=3)
    np.testing.assert_array_equal(pipe.sample(1, seed=3), many[:1])
    np.testing.assert_array_equal(pipe.sample(9, seed=3, first=30), many[30:39])
    assert not np.array_equal(pipe.sample(40, seed=4), many)


def test_drawn_pixels_are_those_of_the_decoder():
    mean, drawn = (pipeline(pixels=pixels).sample(8, as_float=True) for pixels in ("mean", "drawn"))
    assert np.abs(mean - drawn).mean() > 0.1
    scale = pipeline(likelihood=vae.GAUSSIAN, pixels="drawn")
    assert not np.array_equal(scale.sample(8, as_float=True), drawn)


def test_encode_decode_and_reconstruct_fit(pipe):
    encoding = pipe.encode(IMAGES)
    assert encoding.mean.shape == encoding.log_variance.shape == (20, 4)
    np.testing.assert_array_equal(pipe.reconstruct(IMAGES), pipe.decode(encoding.mean))
    mean, _ = pipe.model.apply({"params": pipe.params}, encoding.mean, method="decode")
    np.testing.assert_allclose(pipe.decode(encoding.mean, as_float=True), np.clip(mean, -1, 1), atol=1e-4)


def test_bits_are_those_of_the_formulas_on_one_device(pipe):
    # What the eight devices say, against one draw and its terms by hand.
    found = pipe.bits_per_dim(IMAGES, seed=5, num_samples=1)
    x = to_float(IMAGES, 17)
    encoding = vae.Encoding(*pipe.encode(IMAGES))
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(5, impl="threefry2x32"), i), 0) for i in range(20)]
    noise = np.stack([jax.random.normal(key, (4,)) for key in keys])
    z = vae.decoder_input(encoding, noise)
    decoded = pipe.model.apply({"params": pipe.params}, z, method="decode")
    likelihood = vae.discretised_logistic_log_prob(x, *decoded, 17).sum((1, 2, 3))
    to_bits = -1 / (64 * np.log(2))
    np.testing.assert_allclose(found["elbo"], vae.elbo(likelihood, encoding) * to_bits, rtol=1e-4)
    weight = vae.log_weight(likelihood, encoding, noise)
    np.testing.assert_allclose(found["importance_weighted"], weight * to_bits, rtol=1e-4)
    np.testing.assert_allclose(found["reconstruction"] + found["kl"], found["elbo"], rtol=1e-6)
    assert list(found) == ["reconstruction", "kl", "elbo", "importance_weighted"]


@pytest.mark.parametrize("likelihood", [vae.DISCRETISED_LOGISTIC, vae.GAUSSIAN], ids=["logistic", "gaussian"])
def test_the_probabilities_of_all_images_sum_to_1(likelihood):
    # Every image of 2x2 pixels of two levels: the estimates of p(x) are unbiased, so their sum is 1.
    images = np.array(list(itertools.product([0, 1], repeat=4)), np.uint8).reshape(16, 2, 2, 1)
    pipe = pipeline((2, 2, 1), levels=2, likelihood=likelihood, latent_size=2, mult=(1,), size=0.5)
    bits = pipe.bits_per_dim(images, num_samples=4000)
    assert abs(np.exp2(-4 * bits["importance_weighted"]).sum() - 1) < 0.02
    assert np.exp2(-4 * bits["elbo"]).sum() < 0.98
    few = pipe.bits_per_dim(images, num_samples=10)
    assert bits["importance_weighted"].mean() < few["importance_weighted"].mean() < few["elbo"].mean()


def test_bits_of_an_image_are_its_own_and_a_second_call_compiles_nothing(pipe, monkeypatch):
    found = pipe.bits_per_dim(IMAGES, num_samples=3)["elbo"]
    assert found.shape == (20,) and found.dtype == np.float64
    traces = []
    monkeypatch.setattr(type(pipe.model), "encode", lambda *inputs: traces.append(inputs))
    np.testing.assert_array_equal(pipe.bits_per_dim(IMAGES[:7], num_samples=3)["elbo"], found[:7])
    pipe.bits_per_dim(IMAGES[:3], seed=9, num_samples=7)
    assert traces == []


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: p.sample(0), "0 images"),
        (lambda p: p.sample(2, seed=-1), "seed=-1"),
        (lambda p: p.sample(2, steps=10), "steps=10 given, but a VAE draws"),
        (lambda p: p.sample(2, labels=0), "labels=0 given"),
        (lambda p: p.sample(2, num_frames=5), "num_frames=5 given"),
        (lambda p: p.sample(2, batch_size=0), "batch_size=0"),
        (lambda p: p.encode(IMAGES[..., 0]), r"images of shape \[20, 8, 8\]: this model takes \[n 8 8 1\]"),
        (lambda p: p.encode(IMAGES / 16), "images of float64 from 0.0 to 1.0: give integers from 0 to 16"),
        (lambda p: p.bits_per_dim(IMAGES + 10), "integers from 0 to 16"),
        (lambda p: p.bits_per_dim(IMAGES, num_samples=0), "num_samples=0"),
        (lambda p: p.bits_per_dim(IMAGES, num_samples=3.5), "num_samples=3.5 must be a whole number"),
        (lambda p: p.decode(np.full((2, 4), np.nan)), "a latent is nan: give finite numbers"),
        (lambda p: p.decode(np.full((2, 4), np.inf)), "a latent is inf"),
        (lambda p: p.decode(np.zeros((2, 3))), r"latents of shape \[2, 3\]: this model takes \[n 4\]"),
        (lambda p: VAESamplingConfig(batch_size=0), "sampling.batch_size=0"),
    ],
)
def test_what_does_not_fit_is_refused(pipe, act, message):
    with pytest.raises(InputError, match=message):
        act(pipe)


def test_the_flags_of_diffusion_that_say_nothing_are_taken(pipe):
    np.testing.assert_array_equal(pipe.sample(2, steps=None, labels=None, num_frames=0), pipe.sample(2))
