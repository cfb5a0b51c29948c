"""The variance of each sampler's output, for Gaussian data, equals the exact recursion of its grid.

The denoiser of N(0, VARIANCE) is linear, and so is nearly every sampler in its start and in the noise that it draws:
the output's variance is the sum of the squares of what the sampler makes of each draw alone.
"""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest
from tables import rest_slow

from marble.diffusion import linear
from marble.objectives.samplers import SAMPLERS
from marble.sampling import (
    DDIM,
    ODE,
    PNDM,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    PredictorCorrector,
    UniPC,
    image_keys,
    levels,
    sample,
)
from marble.typing import Level, Prediction

SCHEDULE, VARIANCE = linear(), 0.25
SETTINGS = {
    "ancestral": [Ancestral("fixed_small"), Ancestral("fixed_large")],
    "ddim": [DDIM(0.0), DDIM(0.5), DDIM(1.0)],
    "pndm": [PNDM(SCHEDULE), PNDM(SCHEDULE, skip_prk_steps=True)],
    "dpm_solver_2m": [DPMSolver(2)],
    "dpm_solver_3m": [DPMSolver(3)],
    "dpm_solver_sde": [DPMSolver(2, stochastic=True)],
    "unipc": [UniPC()],
    "euler": [Euler(SCHEDULE, s_churn=8.0)],
    "heun": [Heun(SCHEDULE, s_churn=8.0)],
}
NOT_LINEAR = {"ode", "predictor_corrector"}
"""The sizes of their steps are made of the image."""
OF_OTHER_MODELS = {"consistency"}
"""Not for a model that says the mean: tests/sampling/test_few_steps.py."""
FIRST_ORDER = ("ancestral", "ddim", "euler")
CASES = {f"{name}_{i}": sampler for name, samplers in SETTINGS.items() for i, sampler in enumerate(samplers)}


def gaussian(x, level, context=None):
    level = level.like(x)
    total = level.alpha**2 * VARIANCE + level.sigma**2
    return Prediction(level.alpha * VARIANCE * x / total, level.sigma * x / total)


def exact_grid(num_steps):
    """The grid log_snr in float64."""
    low, high = SCHEDULE.log_snr[-1], SCHEDULE.log_snr[0]
    grid = SCHEDULE.level_at(jnp.linspace(low, high, num_steps))
    return Level(jnp.append(grid.t, 0.0), jnp.append(grid.alpha, 1.0), jnp.append(grid.sigma, 0.0))


def variance_from_units(sampler, num_steps):
    """The variance of the output, with unit vectors in place of the start and of each step's noise."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        for module in ("ancestral", "ddim", "dpm_solver", "heun"):
            patch.setattr(f"marble.sampling.{module}.noise_like", lambda noise, x: noise)
        draws = jnp.eye(num_steps + 1)[..., None]
        walk = jax.jit(functools.partial(mixture.walk, sampler, gaussian))
        return float((walk(exact_grid(num_steps), draws[0], draws[1:])[-1] ** 2).sum())


@functools.cache
def variance_of(name, num_steps):
    return variance_from_units(CASES[name], num_steps)


def drawn_variance(sampler, all_num_steps):
    """Of 200,000 numbers, by the real loop in float32 with real keys, for each number of steps."""
    keys, longest = image_keys(0, jnp.arange(4)), max(all_num_steps)
    draw = jax.jit(lambda grid, n: sample(gaussian, sampler, grid, keys, (50_000,), num_steps=n).var())
    return [float(draw(levels(SCHEDULE, n, "log_snr", length=longest), np.int32(n))) for n in all_num_steps]


FIVE_ERRORS = 5 * np.sqrt(2 / 200_000)


def test_every_sampler_is_here():
    assert SETTINGS.keys() | NOT_LINEAR | OF_OTHER_MODELS == SAMPLERS.keys()


@pytest.mark.parametrize("name", rest_slow(CASES, "ancestral_0", "heun_0"))
def test_images_have_the_variance_of_the_recursion(name):
    # Draws that are not apart from each other would be squared after they are added up.
    expected = [variance_of(name, n) for n in (10, 50)]
    np.testing.assert_allclose(drawn_variance(CASES[name], (10, 50)), expected, rtol=FIVE_ERRORS)


def flow(alpha_t, sigma_t, alpha_s, sigma_s):
    """By what the ODE multiplies x from one level to another: its deviations are sqrt(alpha² v + sigma²)."""
    return np.sqrt((alpha_s**2 * VARIANCE + sigma_s**2) / (alpha_t**2 * VARIANCE + sigma_t**2))


def limit():
    """The variance of the exact flow from N(0, 1), whose last step is to the predicted x_0."""
    (a_t, a_s), (s_t, s_s) = SCHEDULE.alpha[[-1, 0]], SCHEDULE.sigma[[-1, 0]]
    return (flow(a_t, s_t, a_s, s_s) * a_s * VARIANCE / (a_s**2 * VARIANCE + s_s**2)) ** 2


@pytest.mark.parametrize("name", rest_slow(CASES, "ancestral_0", "dpm_solver_2m_0", "unipc_0", "heun_0"))
def test_more_steps_lead_to_the_variance_of_the_data(name):
    errors = np.abs([variance_of(name, n) / limit() - 1 for n in (10, 50, 250)])
    assert (np.diff(errors) < 0).all(), errors
    assert abs(limit() / VARIANCE - 1) < 1e-3
    if name.startswith(FIRST_ORDER):
        # With eta 1 the equations of DDIM, below, leave 3.8 %. A fifth of the step is about a fifth of the error.
        assert errors[2] < 0.04 and 4 < errors[1] / errors[2] < 6, errors
    else:
        assert errors[2] < 0.01, errors


def signal(num_steps):
    """alphas_cumprod along the grid [N], and 1 at the clean level."""
    log_snr = np.linspace(SCHEDULE.log_snr[-1], SCHEDULE.log_snr[0], num_steps)
    return np.append(1 / (1 + np.exp(-log_snr)), 1.0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_has_the_variance_of_its_equations(eta):
    # Song, Meng & Ermon 2021, eq. 12 and 16.
    for num_steps in (10, 50, 250):
        a, variance = signal(num_steps), 1.0
        for a_t, a_s in pairwise(a):
            std = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
            x_0 = np.sqrt(a_t) * VARIANCE / (a_t * VARIANCE + 1 - a_t)  # of x_t
            eps = (1 - np.sqrt(a_t) * x_0) / np.sqrt(1 - a_t)
            variance = (np.sqrt(a_s) * x_0 + np.sqrt(1 - a_s - std**2) * eps) ** 2 * variance + std**2
        name = next(name for name, sampler in CASES.items() if sampler == DDIM(eta))
        assert variance_of(name, num_steps) == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize("method", [Euler, Heun])
@pytest.mark.parametrize(("s_churn", "s_noise"), [(2.0, 1.0), (8.0, 1.1)])
def test_churn_has_the_variance_of_its_algorithm(method, s_churn, s_noise):
    # Karras et al. 2022, algorithm 2, in x / alpha and sigma / alpha; Euler is without its lines 7 to 9.
    num_steps = 10
    sigma = np.sqrt(1 / signal(num_steps) - 1)
    variance, gamma = 1 / signal(num_steps)[0], min(s_churn / num_steps, np.sqrt(2) - 1)
    for s_t, s_s in pairwise(sigma):
        raised = s_t * (1 + gamma)
        variance += (raised**2 - s_t**2) * s_noise**2
        slope = raised / (VARIANCE + raised**2)
        kept = 1 + (s_s - raised) * slope
        if method is Heun and s_s > 0:
            kept = 1 + (s_s - raised) * (slope + s_s / (VARIANCE + s_s**2) * kept) / 2
        variance *= kept**2
    sampler = method(SCHEDULE, s_churn=s_churn, s_noise=s_noise)
    assert variance_from_units(sampler, num_steps) == pytest.approx(variance, rel=1e-5)


def test_the_ode_keeps_to_the_exact_flow(x64):
    x = jnp.asarray([[-2.0], [0.3], [1.0]])
    sampler = ODE(SCHEDULE, 1e-7, 1e-7)
    ends = exact_grid(2)
    path = mixture.walk(sampler, gaussian, ends, x, jnp.zeros((2, 3)))
    np.testing.assert_allclose(path[-1], np.sqrt(limit()) * x, rtol=1e-5)


def test_the_ode_draws_the_variance_of_the_flow():
    np.testing.assert_allclose(drawn_variance(ODE(SCHEDULE), (1, 10)), limit(), rtol=FIVE_ERRORS + 1e-3)


def test_corrections_have_the_variance_of_their_recursion():
    # In many dimensions |noise|² and |score|² are their means: see test_predictor_corrector. After the last correction
    # 1 + snr² is left of each level's variance, to first order, so the data's are met to 3 %.
    snr, variance, a = 0.16, 1.0, signal(50)
    for a_t, a_s in pairwise(a):
        total, fresh = a_t * VARIANCE + 1 - a_t, 1 - a_t / (1 - a_t) * (1 - a_s) / a_s
        kept = np.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t) + np.sqrt(a_s) * fresh * np.sqrt(a_t) * VARIANCE / total
        variance = kept**2 * variance + (1 - a_s) * fresh
        if a_s < 1:
            total = a_s * VARIANCE + 1 - a_s
            step = 2 * snr**2 * total / variance
            variance = (1 - step) ** 2 * variance + 2 * step * total
    (found,) = drawn_variance(PredictorCorrector(Ancestral("fixed_small"), snr, 1), (50,))
    assert found == pytest.approx(variance, rel=FIVE_ERRORS + 2e-3)
    assert variance == pytest.approx(VARIANCE, rel=0.03)
