"""JAX_ENABLE_X64 changes no program: what marble compiles, draws and keeps is the same with it and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import rest_slow

from marble import builders
from marble.cli.train import configured
from marble.data.declared import declared
from marble.diffusion import linear
from marble.objectives.samplers import SAMPLERS, with_schedule
from marble.parallel import in_32_bits, in_bits_of_params
from marble.pipelines import ImageSpec
from marble.plan import batch_shapes
from marble.run import make_train_step_of
from marble.sampling import image_keys, levels, sample
from marble.training.step import several_steps
from marble.typing import Prediction

TINY = ["--config.model.channel_mult=(1,)"]
CONTINUOUS = ["--config.diffusion.weighting=elbo", "--config.sampling.num_steps=4"]
PROGRAMS = {
    "conditional": ("digits:conditional", ["--config.training.timestep_sampling=importance", *TINY]),
    "noisy": (
        "digits:smoke",
        [*TINY, "--config.model.dropout=0.1", "--config.data.flip=True", "--config.training.accumulate=2"],
    ),
    "learned_schedule": (
        "digits:smoke",
        [*TINY, *CONTINUOUS, "--config.diffusion.beta_schedule=learned_monotone", "--config.diffusion.features=8"],
    ),
    "cosine": (
        "digits:smoke",
        [*TINY, *CONTINUOUS, "--config.diffusion.beta_schedule=cosine", "--config.sampling.sampler=heun"],
    ),
    "learned_variance": (
        "digits:smoke",
        [*TINY, "--config.diffusion.variance_type=learned_range", "--config.training.self_conditioning=True"],
    ),
    "vae": ("digits_vae:smoke", TINY),
}


def programs(name, *words):
    """The texts of the train step and of the sampler, and the shapes and types of the state."""
    images, config = declared("digits"), configured(name, list(words))
    experiment = builders.build(config, ImageSpec(images.image_shape, images.levels))
    mapping = experiment.parallel.open(jax.devices()[:1])
    state = mapping.shapes(experiment.init_state)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=mapping.everywhere)
    step = several_steps(make_train_step_of(experiment, mapping), mapping.scan)
    lowered = mapping.lower_step(step, state, batch_shapes(experiment, images, mapping), key)
    sampler = experiment.pipeline(None, mapping=mapping).lower(state.ema_params)
    # Loops that jax writes itself, those of its random numbers, count in 64 bits: what they compute is the same.
    texts = [program.as_text().replace("i64", "i32") for program in (lowered, sampler)]
    return *texts, jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), state)


@pytest.mark.parametrize("name", rest_slow(PROGRAMS, "learned_variance", "vae"))
def test_programs_and_states_are_the_same(name):
    config, words = PROGRAMS[name]
    plain = programs(config, *words)
    with jax.enable_x64(True):
        wide = programs(config, *words)
    assert "f64" not in wide[0] + wide[1]
    assert wide == plain


@pytest.mark.parametrize("name", rest_slow(["learned_schedule", "cosine"], "cosine"))
def test_levels_that_are_made_on_the_host_are_the_same(name):
    def grid():
        config, words = PROGRAMS[name]
        experiment = builders.build(configured(config, words), ImageSpec((8, 8, 1), 17))
        return experiment.pipeline(jax.jit(experiment.init_params)()).grid(4)

    plain = grid()
    with jax.enable_x64(True):
        wide = grid()
    jax.tree.map(np.testing.assert_array_equal, wide, plain)


@pytest.mark.parametrize("name", rest_slow(SAMPLERS, "ancestral", "unipc"))
def test_the_loop_draws_the_same_images(name):
    schedule = linear(100)

    def draw():
        def denoise_fn(x, level, context=None):  # N(0, 1/4); its numbers would be of 64 bits
            level = level.like(x)
            total = jnp.square(level.alpha) * jnp.asarray(np.float64(0.25)) + jnp.square(level.sigma)
            return Prediction(level.alpha * x / (4 * total), level.sigma * x / total)

        grid = levels(schedule, 3)
        return sample(denoise_fn, with_schedule(SAMPLERS[name], schedule), grid, image_keys(7, jnp.arange(2)), (5,))

    plain = draw()
    with jax.enable_x64(True):
        wide = draw()
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, plain, rtol=2e-5, atol=2e-6)


def test_the_noise_of_the_loop_is_the_same_to_the_last_bit():
    def start():
        seen = []

        def denoise_fn(x, level, context=None):
            jax.debug.callback(seen.append, x)
            return Prediction(x, x)

        jax.block_until_ready(
            sample(denoise_fn, SAMPLERS["ddim"](), levels(linear(100), 1), image_keys(7, jnp.arange(3)), (4,))
        )
        return np.asarray(seen[0])

    plain = start()
    with jax.enable_x64(True):
        wide = start()
        assert sample_in(jnp.float64).dtype == np.float64
    np.testing.assert_array_equal(wide, plain)
    assert wide.dtype == np.float32


def sample_in(dtype):
    """Images whose noise is of this type."""
    denoise_fn = lambda x, level, context=None: Prediction(x, x)  # noqa: E731
    return sample(
        denoise_fn, SAMPLERS["ddim"](), levels(linear(100), 1), image_keys(7, jnp.arange(3)), (4,), dtype=dtype
    )


def test_parameters_of_64_bits_are_computed_with(x64):
    third = lambda params, x: params * x / 3  # noqa: E731, which in 32 bits is off by 1e-8
    wide, narrow = np.float64(1), np.float32(1)
    assert in_bits_of_params(third)(jnp.asarray(wide), 1.0) == 1 / 3
    assert jax.jit(in_bits_of_params(third))(wide, wide) == 1 / 3
    assert jax.jit(in_bits_of_params(third))(narrow, jnp.asarray(narrow)).dtype == np.float32
    assert in_32_bits(lambda: jnp.zeros(()))().dtype == np.float32 and jnp.zeros(()).dtype == np.float64
