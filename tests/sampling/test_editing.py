"""Beginning at an image, and keeping a part of one, on Gaussian data: every conditional distribution is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import rest_slow

from marble.diffusion import eps_from_x_0, linear, rectified_flow
from marble.objectives.samplers import SAMPLERS, with_schedule
from marble.sampling import (
    Ancestral,
    FromImage,
    Inpainting,
    Step,
    fold_keys,
    image_keys,
    levels,
    noise_like,
    sample,
)
from marble.typing import Level, Prediction

SCHEDULE = linear(50, beta_start=0.002, beta_end=0.4)
GRID = levels(SCHEDULE)
COVARIANCE = np.array([[0.25, 0.2], [0.2, 0.25]])
NUM = 4000
SAMPLER = Ancestral("fixed_large")


def denoise_fn(x_t, level, context=None):
    """E[x_0 | x_t] for x_0 ~ N(0, COVARIANCE), x_t [b 2]; the eigenvectors are those of every x_t's covariance."""
    variances, axes = np.linalg.eigh(COVARIANCE)
    gain = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
    x_0 = (x_t @ axes * gain[None]) @ axes.T
    return Prediction(x_0, eps_from_x_0(x_t=x_t, x_0=x_0, level=level))


def draw(sampler, grid=GRID, num=NUM):
    run = jax.jit(lambda keys: sample(denoise_fn, sampler, grid, keys, (2,)))
    return np.asarray(run(image_keys(0, jnp.arange(num))))


def tail(start):
    """The levels from the start-th on."""
    return jax.tree.map(lambda table: table[start:], GRID)


X_0 = np.random.default_rng(0).multivariate_normal([0, 0], COVARIANCE, NUM).astype(np.float32)


def test_from_pure_noise_it_is_the_sampler_alone():
    start = Level(GRID.t[0], np.float32(0), np.float32(1))
    np.testing.assert_array_equal(draw(FromImage(SAMPLER, X_0[:50], start), num=50), draw(SAMPLER, num=50))


@pytest.mark.parametrize("start", [20, 30, 45])
def test_an_edited_image_is_of_the_data_and_like_the_original_as_x_t_tells(start):
    # Between x_0 and x_0' ~ p(x_0 | x_t) stands x_t alone: Cov(x_0', x_0) = Cov(E[x_0 | x_t]).
    grid = tail(start)
    first = jax.tree.map(lambda table: table[0], grid)
    edited = draw(FromImage(SAMPLER, X_0, first), grid)
    alpha, sigma = float(first.alpha), float(first.sigma)
    of_x_t = alpha**2 * COVARIANCE + sigma**2 * np.eye(2)
    expected = alpha**2 * COVARIANCE @ np.linalg.inv(of_x_t) @ COVARIANCE
    cross = edited.T @ X_0 / NUM
    np.testing.assert_allclose(cross, expected, atol=0.02)
    np.testing.assert_allclose(np.cov(edited.T), COVARIANCE, atol=0.03)


def inpainted(resamples, is_known=(True, False), x_0=(0.6, 9.0), sampler=SAMPLER, num=NUM):
    x_0 = jnp.broadcast_to(jnp.asarray(x_0, jnp.float32), (num, 2))
    return draw(Inpainting(sampler, x_0, jnp.asarray([is_known]), jnp.int32(resamples)), num=num)


def test_a_hole_is_filled_by_the_conditional_distribution():
    # x_1 | x_0 ~ N(0.8 x_0, 0.25 - 0.04 / 0.25); what stood in the hole (9) has no part in it.
    mean, deviation = 0.8 * 0.6, np.sqrt(0.25 - 0.2**2 / 0.25)
    fitted, replaced = inpainted(20), inpainted(1)
    np.testing.assert_array_equal(fitted[:, 0], np.float32(0.6))
    np.testing.assert_allclose([fitted[:, 1].mean(), fitted[:, 1].std()], [mean, deviation], atol=0.05)
    assert abs(replaced[:, 1].mean() - mean) > 2 * abs(fitted[:, 1].mean() - mean)  # what the repetitions are for


@pytest.mark.parametrize(
    "name",
    rest_slow([name for name in SAMPLERS if name not in ("ode", "predictor_corrector")], "ddim", "dpm_solver_2m"),
)
def test_a_hole_is_filled_by_any_sampler(name):
    # Multistep samplers too, whose memory is of another way. The solver asks for a level an image, which this denoiser
    # has not, and the corrector's steps are by norms, which of two pixels are no measure.
    hole = inpainted(20, sampler=with_schedule(SAMPLERS[name], SCHEDULE), num=1000)[:, 1]
    np.testing.assert_allclose([hole.mean(), hole.std()], [0.8 * 0.6, 0.3], atol=0.08)


class Recorder(NamedTuple):
    """A sampler that leaves its noise as it is and keeps it."""

    def init(self, x, num_steps):
        return ()

    def step(self, denoise_fn, level_t, level_s, x, carry, keys):
        drawn = [noise_like(keys, x), *(noise_like(fold_keys(keys, i), x) for i in range(3))]
        jax.debug.callback(lambda *values: NOISE.extend(np.asarray(v) for v in values), *drawn)
        return Step(noise_like(keys, x), x, carry)


NOISE = []


def test_no_number_is_drawn_twice(monkeypatch):
    # Those of the sampler within, which may fold small numbers into its keys; of the known pixels; of the way back.
    def recorded(keys, x):
        noise = noise_like(keys, x)
        jax.debug.callback(lambda value: NOISE.append(np.asarray(value)), noise)
        return noise

    monkeypatch.setattr("marble.sampling.editing.noise_like", recorded)
    NOISE.clear()
    grid = levels(SCHEDULE, 3)
    sampler = Inpainting(Recorder(), jnp.zeros((1, 2)), jnp.ones((1, 1), bool), jnp.int32(3))
    jax.block_until_ready(sample(denoise_fn, sampler, grid, image_keys(0, jnp.arange(1)), (2,)))
    jax.effects_barrier()
    drawn = [value.tobytes() for value in NOISE]
    # Two steps of three rounds and one of one: four of the sampler's each, the known pixels', two fewer ways back; and
    # the known pixels of the start, whose draw every step makes though only the first uses it.
    assert len(drawn) == 7 * 4 + 7 + 2 * 2 + 3
    assert len(set(drawn)) == len(drawn)


def test_an_image_is_noised_to_the_first_level_on_every_path():
    # On the straight line alpha² + sigma² is 1/2 half-way, and the loop has brought its noise to that size.
    grid = levels(rectified_flow(), 3)
    start = jax.tree.map(lambda table: np.asarray(table[1]), grid)
    assert start.alpha == pytest.approx(0.5, abs=1e-3)
    half = jax.tree.map(lambda table: table[1:], grid)
    seen = []

    def spy(x_t, level, context=None):
        jax.debug.callback(lambda value: seen.append(np.asarray(value)), x_t)
        return Prediction(x_t, x_t)

    sample(spy, FromImage(SAMPLER, jnp.full((NUM, 2), 0.8), start), half, image_keys(0, jnp.arange(NUM)), (2,))
    jax.effects_barrier()
    np.testing.assert_allclose([seen[0].mean(), seen[0].std()], [0.8 * start.alpha, start.sigma], atol=0.02)


def test_nothing_known_is_sampling_and_all_known_is_the_image():
    np.testing.assert_array_equal(inpainted(1, (False, False))[:50], draw(SAMPLER)[:50])
    np.testing.assert_array_equal(inpainted(2, (True, True)), np.broadcast_to(np.float32([0.6, 9]), (NUM, 2)))


def test_repeated_steps_keep_the_distribution():
    # With nothing known each repetition goes up to t and down again: still data.
    np.testing.assert_allclose(np.cov(inpainted(4, (False, False)).T), COVARIANCE, atol=0.03)
