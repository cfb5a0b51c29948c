"""The loop and the ancestral sampler, with the closed-form denoiser of Gaussian data in place of a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import rest_slow

from marble.diffusion import denoiser, edm, linear, rectified_flow
from marble.errors import InputError
from marble.sampling import Ancestral, Step, image_keys, levels, noise_like, sample
from marble.typing import Prediction

SCHEDULE = linear()
MEAN, VARIANCE = 0.3, 0.25


def gaussian_model(x_t, t, context):
    """The optimal eps for x_0 ~ N(MEAN, VARIANCE)."""
    level = SCHEDULE.level(t).like(x_t)
    return level.sigma * (x_t - level.alpha * MEAN) / (level.alpha**2 * VARIANCE + level.sigma**2)


def gaussian_images(num, num_steps=None, *, sampler=Ancestral(), seed=0, first=0, shape=(3,), **options):  # noqa: B008
    keys = image_keys(seed, jnp.arange(first, first + num))
    return sample(denoiser(gaussian_model, SCHEDULE), sampler, levels(SCHEDULE, num_steps), keys, shape, **options)


def exact_variance(num_steps, variance_type):
    """The recursion of the sampler's variance over its grid, for a linear denoiser: the sampler is linear too."""
    grid = jax.tree.map(lambda x: np.asarray(x, np.float64), levels(SCHEDULE, num_steps))
    variance = 1.0
    for i in range(len(grid.t) - 1):
        (a_t, v_t), (a_s, v_s) = ((grid.alpha[j], grid.sigma[j] ** 2) for j in (i, i + 1))
        total = a_t**2 * VARIANCE + v_t
        of_x_0 = a_t * VARIANCE / total  # x_0 = of_x_0 x_t + constant
        fresh = 1 - (a_t**2 / v_t) / (a_s**2 / v_s) if v_s else 1.0
        of_x_t = a_t / a_s * v_s / v_t + a_s * fresh * of_x_0
        added = {"fixed_small": v_s, "fixed_large": v_t}[variance_type] * fresh if v_s else 0.0
        variance = of_x_t**2 * variance + added
    return variance


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("num_steps", rest_slow([10, 100, 1000], 10, 100))
def test_the_sampler_has_the_variance_of_its_recursion(num_steps, variance_type):
    draws = 20_000
    x = np.asarray(gaussian_images(draws, num_steps, sampler=Ancestral(variance_type)))
    expected = exact_variance(num_steps, variance_type)
    assert abs(x.mean() - MEAN) < 5 * np.sqrt(expected / x.size) + 2e-3  # the start forgets its mean but for alpha_T
    assert abs(x.var() / expected - 1) < 5 * np.sqrt(2 / x.size) + 2e-3
    if num_steps == 1000:
        assert abs(expected / VARIANCE - 1) < 0.02


class Recorder(NamedTuple):
    """Each step's x is the noise that its keys draw, and its x_0 is what the loop began with."""

    def init(self, x, num_steps):
        return x

    def step(self, denoise_fn, level_t, level_s, x, carry, keys):
        return Step(noise_like(keys, x), carry, carry)


def test_the_noise_of_each_step_is_no_other_s_and_not_the_start_s():
    grid = levels(SCHEDULE, 5)
    _, frames = sample(
        denoiser(gaussian_model, SCHEDULE), Recorder(), grid, image_keys(0, jnp.arange(2)), (4000,), num_frames=5
    )
    noise = np.concatenate([frames.x_0[:1], frames.x]).reshape(12, 4000)
    np.testing.assert_allclose(np.corrcoef(noise), np.eye(12), atol=5 / np.sqrt(4000))


@pytest.mark.parametrize(("schedule", "variance"), [(rectified_flow(), 0.5), (edm(), 2.0), (linear(), 1.0)])
def test_the_start_has_the_variance_of_its_level(schedule, variance):
    # Data of variance 1 have alpha² + sigma² at a level. The grid begins where alpha = sigma: on the straight path both
    # are 1/2, on the exploding one 1.
    grid = levels(schedule, 3, "log_snr", sigma_min=0.1, sigma_max=1.0)
    _, frames = sample(
        denoiser(gaussian_model, SCHEDULE), Recorder(), grid, image_keys(0, jnp.arange(2)), (50_000,), num_frames=1
    )
    assert float(frames.x_0.var()) == pytest.approx(variance, rel=5 * np.sqrt(2 / 100_000))


def test_image_i_depends_on_seed_and_i_alone():
    all_of_them = gaussian_images(16, 20)
    np.testing.assert_array_equal(gaussian_images(5, 20, first=8), all_of_them[8:13])
    assert not np.allclose(gaussian_images(16, 20, seed=1), all_of_them)
    assert len({row.tobytes() for row in np.asarray(all_of_them)}) == 16


def test_one_program_serves_every_number_of_steps_and_seed():
    traces = []

    @jax.jit
    def draw(grid, num_steps, seed):
        traces.append(1)
        keys = image_keys(seed, jnp.arange(4))
        return sample(denoiser(gaussian_model, SCHEDULE), Ancestral(), grid, keys, (2,), num_steps=num_steps)

    for num_steps, seed in ((1000, 0), (50, 1), (1, 2)):
        padded = draw(levels(SCHEDULE, num_steps, length=1000), num_steps, np.uint32(seed))
        plain = gaussian_images(4, num_steps, seed=seed, shape=(2,))
        np.testing.assert_allclose(padded, plain, atol=1e-5)
    assert len(traces) == 1


def test_jit_and_no_jit_agree():
    with jax.disable_jit():
        plain = gaussian_images(2, 3)
    np.testing.assert_allclose(jax.jit(lambda: gaussian_images(2, 3))(), plain, atol=1e-6)


def test_frames_go_from_noise_to_the_images():
    plain = gaussian_images(256, 100, shape=(16,))
    images, frames = gaussian_images(256, 100, shape=(16,), num_frames=5)
    np.testing.assert_allclose(images, plain, atol=1e-6)
    assert frames.x.shape == frames.x_0.shape == (5, 256, 16)
    np.testing.assert_array_equal(frames.x[-1], images)
    # The last step goes to the predicted x_0; compilers may round the two readings of it differently.
    np.testing.assert_allclose(frames.x_0[-1], images, atol=1e-6)
    assert (np.diff(np.asarray(frames.x_0).var((1, 2))) > 0).all()  # predictions gain detail on the way


def test_as_many_frames_as_steps_are_every_step():
    _, frames = gaussian_images(2, 7, num_frames=7)
    assert len({frame.tobytes() for frame in np.asarray(frames.x)}) == 7


@pytest.mark.parametrize(
    "options, message",
    [({"num_steps": 8}, "num_steps=8 must be between 1 and 7"), ({"num_frames": 8}, "num_frames=8 must be at most")],
)
def test_more_steps_than_levels_and_more_frames_than_steps_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        sample(
            denoiser(gaussian_model, SCHEDULE),
            Ancestral(),
            levels(SCHEDULE, 7),
            image_keys(0, jnp.arange(2)),
            (3,),
            **options,
        )


def test_self_conditioning_tells_the_last_estimate():
    # A model that adds 1 to what it is told: after N steps its estimate has been counted up N times.
    def denoise_fn(x_t, level, context):
        x_0 = context["x_0"] + 1
        return Prediction(x_0, jnp.zeros_like(x_t))

    keys = image_keys(0, jnp.arange(2))
    _, frames = sample(denoise_fn, Ancestral(), levels(SCHEDULE, 5), keys, (3,), num_frames=5, self_conditioning=True)
    np.testing.assert_array_equal(frames.x_0[:, 0, 0], [1, 2, 3, 4, 5])
