"""A mixture with one Gaussian a prompt: what guidance does to it is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks

from marble.conditioning import Identity, Text
from marble.conditioning.text_encoder import TextEncoder
from marble.convert.text import open_text_encoder
from marble.data.tokenizer import Tokenizer
from marble.diffusion import linear
from marble.objectives.samplers import named_sampler
from marble.pipelines import DiffusionPipeline, SamplingConfig
from marble.typing import ImageSpec

IMAGE = ImageSpec((2, 2, 1), 256)
PROMPTS = ("", "a cat on a mat", "two dogs in the snow", "8784 hours")
MEANS = np.float32([0.0, 0.2, -0.15, 0.1])[:, None, None, None] * np.float32([[1, -1], [0.5, 1]])[None, ..., None]
DEVIATION = 0.1
SCHEDULE = linear(num_train_timesteps=200, beta_end=0.05)
NUM = 1024


class Exact(nn.Module):
    """eps of x_t for x_0 ~ N(m, DEVIATION²), m that of the prompt whose states the context has."""

    text_channels: int = 12

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        states = self.param(
            "states", nn.initializers.zeros, (len(PROMPTS), small_networks.MAX_LENGTH, self.text_channels)
        )
        means = self.param("means", nn.initializers.zeros, MEANS.shape)
        apart = jnp.square(context["text"][:, None] - states[None]).sum(axis=(2, 3))
        level = SCHEDULE.level(t).like(x_t)
        mean = means[apart.argmin(axis=1)]
        return level.sigma * (x_t - level.alpha * mean) / (level.alpha**2 * DEVIATION**2 + level.sigma**2)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """Told of texts by the states of a CLIP, of which the denoiser knows those of four prompts."""
    folder = tmp_path_factory.mktemp("clip")
    small_networks.write(folder / "clip", small_networks.clip_text())
    small_networks.write_tokenizer(folder / "words")
    model, params = open_text_encoder(str(folder / "clip"))
    tokenizer = Tokenizer.open(folder / "words", max_length=model.max_length)
    text = Text((params,), (TextEncoder(model, tokenizer),), IMAGE)
    states = jax.jit(text._told)([jnp.asarray(tokenizer.encode(list(PROMPTS))[0])])["text"]
    return DiffusionPipeline(
        model=Exact(),
        params={"states": states, "means": MEANS},
        schedule=SCHEDULE,
        codec=Identity(IMAGE),
        conditioner=text,
        sampler=named_sampler(SCHEDULE, {}, "ddim"),
        config=SamplingConfig(num_steps=100, clip_sample=False, batch_size=NUM),
    )


@pytest.mark.parametrize("scale", [1.0, 2.5, 0.0])
def test_guidance_moves_the_mean_along_the_tilt(pipe, scale):
    """p(x | prompt)^w p(x)^(1-w) of Gaussians of one variance is N(m_0 + w (m - m_0), s²), at every noise level.

    With w = 1 it is the prompt's own component. The mean of the samples is within five standard errors, and their
    deviation within what DDIM's 100 steps leave of it.
    """
    for k in (1, 2, 3):
        images = pipe.sample(NUM, seed=k, text=PROMPTS[k], guidance_scale=scale, as_float=True)
        expected = MEANS[0] + scale * (MEANS[k] - MEANS[0])
        standard_error = DEVIATION / np.sqrt(NUM)
        np.testing.assert_allclose(images.mean(axis=0), expected, atol=5 * standard_error)
        np.testing.assert_allclose(images.std(axis=0), DEVIATION, rtol=0.15)


def test_a_negative_text_is_what_it_goes_away_from(pipe):
    images = pipe.sample(NUM, seed=0, text=PROMPTS[1], negative_text=PROMPTS[2], guidance_scale=2.0, as_float=True)
    expected = MEANS[2] + 2 * (MEANS[1] - MEANS[2])
    np.testing.assert_allclose(images.mean(axis=0), expected, atol=5 * DEVIATION / np.sqrt(NUM))


def test_prompts_in_turn_are_the_mixture(pipe):
    """Each image of a run has its own prompt's component."""
    texts = [PROMPTS[1 + i % 3] for i in range(NUM)]
    images = pipe.sample(NUM, seed=0, text=texts, guidance_scale=1.0, as_float=True)
    for k in (1, 2, 3):
        mine = images[np.arange(NUM) % 3 == k - 1]
        np.testing.assert_allclose(mine.mean(axis=0), MEANS[k], atol=5 * DEVIATION / np.sqrt(len(mine)))
