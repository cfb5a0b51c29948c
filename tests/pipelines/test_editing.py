"""Editing by a pipeline whose network is the exact denoiser of Gaussian images."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from marble.conditioning import Identity
from marble.data.preprocess import to_uint8
from marble.diffusion import linear
from marble.errors import InputError
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.pipelines.editing import edit, inpaint, interpolate
from marble.sampling import Ancestral

SCHEDULE = linear(20, beta_start=0.005, beta_end=0.6)
VARIANCE = 0.04


class Gaussian(nn.Module):
    """eps of images whose pixels are N(0, VARIANCE)."""

    num_classes = None

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        level = SCHEDULE.level(t).like(x_t)
        return level.sigma / (level.alpha**2 * VARIANCE + level.sigma**2) * x_t


@pytest.fixture(scope="module")
def pipe():
    return DiffusionPipeline(
        model=Gaussian(),
        params={},
        schedule=SCHEDULE,
        codec=Identity(ImageSpec((4, 4, 1), 256)),
        sampler=Ancestral("fixed_large"),
        config=SamplingConfig(batch_size=16),
    )


IMAGES = np.random.default_rng(0).normal(0, 0.2, (20, 4, 4, 1)).clip(-1, 1).astype(np.float32)
MASK = np.zeros((4, 4), bool)
MASK[1:3] = True


def test_strength_1_is_sampling_and_0_the_image_itself(pipe):
    np.testing.assert_allclose(
        edit(pipe, IMAGES, 1.0, seed=3, as_float=True), pipe.sample(20, seed=3, as_float=True), atol=1e-5
    )
    np.testing.assert_array_equal(edit(pipe, IMAGES, 0.0), to_uint8(IMAGES, 256))


def test_the_stronger_the_less_of_the_image_is_left(pipe):
    likeness = [
        np.corrcoef(edit(pipe, IMAGES, strength, as_float=True).ravel(), IMAGES.ravel())[0, 1]
        for strength in (0.05, 0.2, 0.4, 1.0)
    ]
    assert likeness == sorted(likeness, reverse=True) and likeness[0] > 0.9 and abs(likeness[-1]) < 0.2


def test_image_i_depends_on_its_input_and_index_alone(pipe):
    many = edit(pipe, IMAGES, 0.5, seed=2)
    np.testing.assert_array_equal(edit(pipe, IMAGES[7:9], 0.5, seed=2, first=7), many[7:9])
    assert not np.array_equal(edit(pipe, IMAGES, 0.5, seed=3), many)
    filled = inpaint(pipe, IMAGES, MASK, seed=2, resamples=2)
    np.testing.assert_array_equal(inpaint(pipe, IMAGES[7:9], MASK, seed=2, first=7, resamples=2), filled[7:9])


def test_other_strengths_steps_seeds_and_repetitions_compile_nothing(pipe, monkeypatch):
    edit(pipe, IMAGES, 0.5)
    inpaint(pipe, IMAGES, MASK, resamples=1)
    traces, apply = [], pipe.apply
    monkeypatch.setattr(pipe, "apply", lambda *inputs: traces.append(inputs) or apply(*inputs))
    edit(pipe, IMAGES[:3], 0.3, seed=5, steps=10)
    interpolate(pipe, IMAGES[0], IMAGES[1], strength=0.7)
    inpaint(pipe, IMAGES[:2], np.stack([MASK, ~MASK]), resamples=3, steps=7)
    assert traces == []


def test_known_pixels_stay_and_others_are_drawn(pipe):
    filled = inpaint(pipe, IMAGES, MASK, resamples=2, as_float=True)
    np.testing.assert_array_equal(filled[:, ~MASK], IMAGES[:, ~MASK])
    drawn = filled[:, MASK]
    sampled = pipe.sample(500, as_float=True).std()  # of 20 steps: more than the data's 0.2
    assert abs(drawn.std() - sampled) < 0.03 and abs(np.corrcoef(drawn.ravel(), IMAGES[:, MASK].ravel())[0, 1]) < 0.2
    as_uint8 = inpaint(pipe, to_uint8(IMAGES, 256), MASK, resamples=1)
    np.testing.assert_array_equal(as_uint8[:, ~MASK], to_uint8(IMAGES, 256)[:, ~MASK])


def test_the_ends_of_an_interpolation_are_the_edited_images_and_its_middle_between(pipe):
    way = interpolate(pipe, IMAGES[0], IMAGES[1], num=5, strength=0.4, seed=1, as_float=True)
    ends = [edit(pipe, image[None], 0.4, seed=1, as_float=True)[0] for image in IMAGES[:2]]
    np.testing.assert_allclose(way[[0, -1]], ends, atol=1e-4)
    # The exact denoiser is linear here, and the draws are the same: so the way is a straight line.
    np.testing.assert_allclose(way, np.linspace(way[0], way[-1], 5), atol=1e-4)
    itself = interpolate(pipe, IMAGES[0], IMAGES[1], num=3, strength=0.0, as_float=True)
    np.testing.assert_allclose(itself[[0, -1]], IMAGES[:2], atol=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: edit(p, IMAGES, 1.5), "strength=1.5 must be between 0"),
        (lambda p: edit(p, IMAGES, float("nan")), "strength=nan"),
        (lambda p: edit(p, IMAGES, 0.02), "strength=0.02 of 20 steps makes none: give at least 0.025, or 0"),
        (lambda p: edit(p, IMAGES[:, :3], 0.5), r"images of shape \[20, 3, 4, 1\]: this model takes \[n 4 4 1\]"),
        (lambda p: edit(p, 3 * IMAGES + 1, 0.5), r"images of float32 .* floats in \[-1, 1\]"),
        (lambda p: edit(p, IMAGES.astype(int), 0.5), "images of int64"),
        (lambda p: edit(p, IMAGES, 0.5, steps=21), "21 sampling steps: give between 1 and 20"),
        (lambda p: edit(p, IMAGES, 0.5, labels=1), "trained without labels"),
        (lambda p: edit(p, IMAGES, 0.5, seed=-1), "seed=-1"),
        (lambda p: interpolate(p, IMAGES[0], IMAGES[1], num=1), "1 images asked for"),
        (lambda p: interpolate(p, IMAGES[0], IMAGES[1][:2]), "images of shape"),
        (lambda p: inpaint(p, IMAGES, MASK[:3]), r"a mask of shape \[3, 4\] for images of 4 x 4"),
        (lambda p: inpaint(p, IMAGES, MASK, resamples=0), "resamples=0"),
    ],
)
def test_what_does_not_fit_is_refused(pipe, act, message):
    with pytest.raises(InputError, match=message):
        act(pipe)


def test_jax_arrays_are_images_too(pipe):
    np.testing.assert_array_equal(edit(pipe, jnp.asarray(IMAGES), 0.2), edit(pipe, IMAGES, 0.2))
