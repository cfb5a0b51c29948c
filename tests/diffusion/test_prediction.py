"""Readings of one prediction, and the model behind them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import (
    cosine,
    denoiser,
    edm,
    eps_from_x_0,
    linear,
    predict,
    q_posterior,
    q_sample,
    read,
    rectified_flow,
    x_0_from_eps,
)
from marble.diffusion.prediction import READINGS
from marble.errors import InputError
from marble.typing import Prediction


@pytest.mark.parametrize("t", [0, 500, 999])
def test_x_0_and_eps_are_two_readings(t, x64):
    schedule, rng = linear(), np.random.default_rng(0)
    x_0, noise = (jnp.asarray(rng.normal(size=(2, 3, 3, 1))) for _ in range(2))
    x_t, level = q_sample(schedule, x_0, t, noise), schedule.level(t)
    np.testing.assert_allclose(x_0_from_eps(x_t=x_t, eps=noise, level=level), x_0, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(eps_from_x_0(x_t=x_t, x_0=x_0, level=level), noise, rtol=1e-9, atol=1e-10)


def test_the_denoiser_gives_every_image_its_t():
    schedule, x_t = linear(), jnp.full((2, 3), 2.0)
    seen = []

    def model(x, t, context):
        seen.append((t, context))
        return jnp.zeros_like(x)

    prediction = denoiser(model, schedule)(x_t, schedule.level(5), {"label": 1})
    np.testing.assert_array_equal(seen[0][0], [5, 5])
    assert seen[0][1] == {"label": 1}
    np.testing.assert_allclose(prediction.x_0, 2 / schedule.alpha[5], rtol=1e-6)
    np.testing.assert_array_equal(prediction.eps, 0)
    assert prediction.variance is None


def levels_of(schedule, *t):
    return {"level": schedule.level(jnp.array(t)), "level_s": schedule.previous_level(jnp.array(t))}


SCHEDULES = {"steps": linear(), "exploding": edm(), "straight": rectified_flow(), "cosine": cosine()}


@pytest.mark.parametrize(
    ("of", "to", "schedule"),
    # A posterior mean needs a step before.
    [
        (of, to, name)
        for of, to, name in itertools.product(READINGS, READINGS, SCHEDULES)
        if "posterior_mean" not in (of, to) or name == "steps"
    ],
)
def test_any_reading_gives_any_other(of, to, schedule, x64):
    rng = np.random.default_rng(0)
    x_0, eps = (jnp.asarray(rng.normal(size=(3, 4, 2))) for _ in range(2))
    if schedule == "steps":
        levels = levels_of(SCHEDULES[schedule], 1, 400, 999)
    else:
        levels = {"level": SCHEDULES[schedule].level(jnp.array([0.1, 0.5, 0.9]))}
    level = levels["level"].like(x_0)
    x_t = level.alpha * x_0 + level.sigma * eps
    truth = Prediction(x_0, eps)
    found = predict(read(truth, of, **levels), of, x_t=x_t, **levels)
    np.testing.assert_allclose(read(found, to, **levels), read(truth, to, **levels), rtol=1e-6, atol=1e-6)


def test_readings_are_what_their_papers_say(x64):
    schedule = linear()
    rng = np.random.default_rng(0)
    x_0, eps = (jnp.asarray(rng.normal(size=(2, 5))) for _ in range(2))
    levels = levels_of(schedule, 7, 900)
    level = levels["level"].like(x_0)
    x_t, prediction = level.alpha * x_0 + level.sigma * eps, Prediction(x_0, eps)

    def log_q(x):  # of q(x_t | x_0): its gradient is the score
        return (-0.5 * (x - level.alpha * x_0) ** 2 / level.sigma**2).sum()

    np.testing.assert_allclose(read(prediction, "score", **levels), jax.grad(log_q)(x_t), rtol=1e-9)
    # The velocity on the circle: d x_t / d phi for alpha = cos phi, sigma = sin phi.
    phi = jnp.arctan2(level.sigma, level.alpha)
    _, velocity = jax.jvp(lambda p: jnp.cos(p) * x_0 + jnp.sin(p) * eps, (phi,), (jnp.ones_like(phi),))
    np.testing.assert_allclose(read(prediction, "v", **levels), velocity, rtol=1e-9)
    # The velocity on the straight line.
    _, velocity = jax.jvp(lambda s: (1 - s) * x_0 + s * eps, (0.3,), (1.0,))
    np.testing.assert_allclose(read(prediction, "flow", **levels), velocity, rtol=1e-9)
    posterior = q_posterior(x_0=x_0, x_t=x_t, level_t=levels["level"], level_s=levels["level_s"])
    np.testing.assert_allclose(read(prediction, "posterior_mean", **levels), posterior.mean, rtol=1e-9)
    # EDM, table 1: x_0 = c_skip x + c_out F, of x = x_0 + noise eps.
    noise = level.sigma / level.alpha
    c_skip = 0.25 / (noise**2 + 0.25)
    c_out = noise * 0.5 / jnp.sqrt(noise**2 + 0.25)
    network = read(prediction, "edm", **levels)
    np.testing.assert_allclose(c_skip * (x_0 + noise * eps) + c_out * network, x_0, rtol=1e-9)


def test_edm_s_network_sees_unit_variance():
    schedule, seen = edm(), []

    def model(x, t, context):
        seen.append((x, t))
        return jnp.zeros_like(x)

    level = schedule.level_at(jnp.asarray(-2 * np.log(3.0)))  # sigma = 3
    denoiser(model, schedule, prediction_type="edm")(jnp.full((2, 3), 10.0), level)
    np.testing.assert_allclose(seen[0][0], 10 / np.sqrt(9.25), rtol=1e-6)
    np.testing.assert_allclose(seen[0][1], np.log(3) / 4, rtol=1e-6)


def test_an_output_of_twice_the_channels_speaks_of_the_variance_too():
    schedule, x_t = linear(), jnp.ones((2, 4, 4, 3))

    def model(x, t, context):
        return jnp.concatenate([x, 2 * x], axis=-1)

    prediction = denoiser(model, schedule)(x_t, schedule.level(3))
    np.testing.assert_array_equal(prediction.eps, x_t)
    np.testing.assert_array_equal(prediction.variance, 2 * x_t)


def test_unknown_and_impossible_types_are_refused():
    with pytest.raises(InputError, match="'epsilon' is not one of eps, x_0"):
        denoiser(lambda *_: None, linear(), prediction_type="epsilon")
    with pytest.raises(InputError, match="needs a schedule of steps"):
        denoiser(lambda *_: None, edm(), prediction_type="posterior_mean")
