"""Pipelines whose network sees latents: images in, images out, the way from noise, other autoencoders, classes."""

import jax
import numpy as np
import pytest
import small_networks
import small_pipelines

from marble.convert.latents import open_autoencoder
from marble.data.preprocess import to_uint8
from marble.errors import InputError
from marble.pipelines.editing import edit, inpaint, interpolate
from marble.sampling import ODE

STEPS = 6
TEXTS = ["a cat", "two dogs", "snow at sunset"]
ASKED = dict(text=TEXTS, negative_text="photo", seed=2, steps=STEPS)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
MASK = np.zeros((16, 16), bool)
MASK[3:9, 5:12] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_pipelines.stable_diffusion(tmp_path_factory.mktemp("small") / "sd")


@pytest.fixture(scope="module")
def pipe(folder):
    return small_pipelines.opened(folder)


def apart(a, b):
    return np.abs(a.astype(int) - b.astype(int))


def test_strength_0_is_the_image_itself_and_1_what_is_sampled(pipe):
    np.testing.assert_array_equal(edit(pipe, IMAGES, 0.0, **ASKED), IMAGES)
    sampled = pipe.sample(3, **ASKED)
    assert apart(edit(pipe, IMAGES, 1.0, **ASKED), sampled).max() <= 1
    half = edit(pipe, IMAGES, 0.5, **ASKED)
    assert apart(half, IMAGES).mean() > 5 and apart(half, sampled).mean() > 5
    alone = edit(pipe, IMAGES[1:2], 0.5, **ASKED | dict(text=TEXTS[1]), first=1)
    assert apart(alone, half[1:2]).max() <= 1
    assert apart(edit(pipe, IMAGES, 0.5, **ASKED | dict(text="photo")), half).max() > 1


def test_known_pixels_stay(pipe):
    filled = inpaint(pipe, IMAGES, MASK, resamples=2, **ASKED)
    np.testing.assert_array_equal(filled[:, ~MASK], IMAGES[:, ~MASK])
    assert apart(filled, IMAGES)[:, MASK].mean() > 5
    other = inpaint(pipe, IMAGES, MASK, resamples=2, **ASKED | dict(seed=3))
    assert apart(other, filled)[:, MASK].mean() > 5


def test_between_two_images(pipe):
    way = interpolate(pipe, IMAGES[0], IMAGES[1], num=3, strength=0.5, **ASKED | dict(text="a cat"))
    ends = [edit(pipe, image[None], 0.5, **ASKED | dict(text="a cat")) for image in IMAGES[:2]]
    assert apart(way[[0, -1]], np.concatenate(ends)).max() <= 1
    assert apart(way[1], way[0]).mean() > 2
    with pytest.raises(InputError, match="give two of one size"):
        interpolate(pipe, IMAGES[0], np.zeros((16, 24, 3), np.uint8), text="a")


@pytest.mark.slow
def test_images_of_another_size_are_edited_as_they_are(pipe):
    wide = np.random.default_rng(1).integers(0, 256, (2, 12, 24, 3), np.uint8)
    asked = dict(text="a cat", steps=STEPS)
    sampled = pipe.sample(2, height=12, width=24, **asked)
    assert apart(edit(pipe, wide, 1.0, **asked), sampled).max() <= 1
    with pytest.raises(InputError, match="images of 10 x 24: give a height and width that are multiples of 4"):
        edit(pipe, wide[:, :10], 0.5, **asked)


@pytest.mark.slow
def test_images_come_back_from_their_noise(tmp_path):
    # The flow of a random network is rough: of a small v it is nearly the smooth one of v = 0.
    v = small_pipelines.DDIM | {"prediction_type": "v_prediction"}
    pipe = small_pipelines.opened(small_pipelines.stable_diffusion(tmp_path / "sd", scheduler=v))
    pipe.params = {**pipe.params, "conv_out": jax.tree.map(lambda x: 0.1 * x, pipe.params["conv_out"])}
    asked = dict(text=TEXTS, guidance_scale=1.5, steps=STEPS)
    x_T = pipe.invert(IMAGES, tolerance=1e-5, **asked)
    assert x_T.shape == (3, 8, 8, 4)
    back = pipe.sample(3, noise=x_T, sampler=ODE(pipe.schedule, rtol=1e-5, atol=1e-5), **asked)
    # The autoencoder gives other images than it is given: what comes back is what their latents are decoded to.
    decoded = pipe.decode(pipe.encode((IMAGES / 127.5 - 1).astype(np.float32)))
    expected = np.asarray(to_uint8(np.clip(decoded, -1, 1), 256))
    assert (apart(back, expected) <= 2).mean() > 0.99
    assert apart(pipe.sample(3, noise=-x_T, **asked), expected).mean() > 10


@pytest.mark.slow
def test_frames_are_decoded_and_end_at_the_images(pipe):
    images, frames = pipe.sample(3, num_frames=3, **ASKED)
    assert frames.x.shape == frames.x_0.shape == (3, 3, 16, 16, 3) and frames.x.dtype == np.uint8
    np.testing.assert_array_equal(frames.x[-1], images)
    assert apart(images, pipe.sample(3, **ASKED)).max() <= 1


def test_the_mean_is_encoded_and_what_diffuses_is_scaled(folder, pipe):
    model, params, scale = open_autoencoder(f"{folder}/vae")
    assert scale == 0.5
    images = (IMAGES / 127.5 - 1).astype(np.float32)
    mean, _ = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))(params, images)
    np.testing.assert_allclose(pipe.encode(images), 0.5 * mean, atol=1e-5)
    decoded = jax.jit(lambda p, x: model.apply({"params": p}, x, method="decode"))(params, mean)
    np.testing.assert_allclose(pipe.decode(0.5 * mean), decoded, atol=1e-4)


@pytest.mark.slow
def test_a_tiny_autoencoder_takes_the_other_s_place(tmp_path, pipe):
    folder = small_pipelines.stable_diffusion(tmp_path / "sd", vae=small_networks.tiny_autoencoder())
    tiny = small_pipelines.opened(folder)
    made = tiny.sample(3, **ASKED)
    assert made.std() > 5 and apart(made, pipe.sample(3, **ASKED)).mean() > 5
    model, params, scale = open_autoencoder(f"{folder}/vae")
    assert scale == 1
    latents = tiny.encode((IMAGES / 127.5 - 1).astype(np.float32))
    decoded = jax.jit(lambda p, x: model.apply({"params": p}, x, method="decode"))(params, latents)
    np.testing.assert_allclose(tiny.decode(latents), decoded, atol=1e-4)


def test_classes(tmp_path):
    pipe = small_pipelines.opened(small_pipelines.classes(tmp_path / "dit"))
    made = pipe.sample(4, labels=[0, 1, 2, 2], steps=STEPS)
    assert made.shape == (4, 8, 8, 3) and made.std() > 5
    assert apart(pipe.sample(4, labels=[1, 1, 2, 2], steps=STEPS), made)[0].max() > 1
    np.testing.assert_array_equal(pipe.sample(1, labels=1, first=1, steps=STEPS), made[1:2])
    with pytest.raises(InputError, match="text='a cat' given, but this model was trained without text"):
        pipe.sample(2, text="a cat")
    with pytest.raises(InputError, match="images of 16 x 8 asked for, and this network makes 8 x 8"):
        pipe.sample(2, labels=1, height=16)
