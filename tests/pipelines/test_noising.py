"""Images on the way to noise, by the exact denoiser of Gaussian images."""

import flax.linen as nn
import numpy as np
import pytest

from marble.conditioning import Identity
from marble.data.preprocess import to_uint8
from marble.diffusion import cosine, linear, q_sample
from marble.errors import InputError
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.pipelines.noising import noised
from marble.sampling import Ancestral, fold_keys, image_keys, noise_like

VARIANCE = 0.04
IMAGES = np.random.default_rng(0).normal(0, 0.2, (5, 4, 4, 1)).clip(-1, 1).astype(np.float32)


def pipeline(schedule):
    class Gaussian(nn.Module):
        """eps of images whose pixels are N(0, VARIANCE)."""

        @nn.compact
        def __call__(self, x_t, t, context=None, *, train=False):
            # In continuous time the network is told t * 1000.
            level = schedule.level(t if schedule.num_train_timesteps else t / 1000).like(x_t)
            return level.sigma / (level.alpha**2 * VARIANCE + level.sigma**2) * x_t

    codec = Identity(ImageSpec((4, 4, 1), 256))
    config = SamplingConfig(batch_size=16, num_steps=20)
    return DiffusionPipeline(
        model=Gaussian(), params={}, schedule=schedule, codec=codec, sampler=Ancestral(), config=config
    )


@pytest.fixture(scope="module", params=["steps", "continuous"])
def pipe(request):
    return pipeline(linear(20, beta_start=0.005, beta_end=0.6) if request.param == "steps" else cosine())


def times(pipe):
    return (0, 7, 19) if pipe.schedule.num_train_timesteps else (0.0, 0.4, 0.9)


def test_it_is_q_sample_by_the_run_s_noise_and_the_posterior_mean(pipe):
    noise = noise_like(fold_keys(image_keys(3, np.arange(5, dtype=np.uint32)), 0), IMAGES)
    for t in times(pipe):
        x_t = q_sample(pipe.schedule, IMAGES, np.full(5, t), noise)
        level = pipe.schedule.level(t)
        mean = level.alpha * VARIANCE / (level.alpha**2 * VARIANCE + level.sigma**2) * x_t
        found = noised(pipe, IMAGES, t, seed=3)
        for made, expected in zip(found, (x_t, mean), strict=True):
            assert made.dtype == np.uint8
            assert np.abs(made.astype(int) - np.asarray(to_uint8(expected, 256))).max() <= 1


def test_image_i_depends_on_its_input_and_index_alone_and_another_t_compiles_nothing(pipe, monkeypatch):
    few = noised(pipe, IMAGES[3:], times(pipe)[1], seed=2, first=3)
    for made, of_all in zip(few, noised(pipe, IMAGES, times(pipe)[1], seed=2), strict=True):
        np.testing.assert_array_equal(made, of_all[3:])
    traces, apply = [], pipe.apply
    monkeypatch.setattr(pipe, "apply", lambda *inputs: traces.append(inputs) or apply(*inputs))
    noised(pipe, IMAGES, times(pipe)[2], seed=5)
    assert traces == []


def test_what_does_not_fit_is_refused(pipe):
    with pytest.raises(InputError, match="between 0 and"):
        noised(pipe, IMAGES, 20)
    with pytest.raises(InputError, match=r"images of shape \[5, 3, 4, 1\]"):
        noised(pipe, IMAGES[:, 1:], times(pipe)[0])
