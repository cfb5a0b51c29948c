"""The bound by steps, against closed forms: x_0 ~ N(0, 1/4) with the optimal model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import Mixture

from marble.diffusion import bound_terms, denoiser, linear, q_sample, rate_distortion
from marble.diffusion.decoder import tanh_discretised_gaussian_log_prob
from marble.typing import Prediction

DATA_VARIANCE = 0.25


def fine(T):
    """The paper's schedule, in T steps."""
    return linear(T, 0.1 / T, 20 / T)


def optimal(log_variance_of=None):
    """E[x_0 | x_t] for the data, and with a table's entry the logarithm of the reverse step's variance."""

    def denoise_fn(x_t, level, context=None):
        total = (level.alpha**2 * DATA_VARIANCE + level.sigma**2).astype(x_t.dtype)
        variance = None if log_variance_of is None else jnp.full_like(x_t, 1) * jnp.asarray(log_variance_of)[level.t]
        return Prediction(level.alpha * DATA_VARIANCE / total * x_t, level.sigma / total * x_t, variance)

    return denoise_fn


def density(x_0, mean, variance, levels):
    """A decoder for data that is not of pixels: log N(x_0; mean, variance)."""
    return -0.5 * ((x_0 - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))


# Every term is quadratic in x_0 and the noise: +-1 and +-1/2 have their moments, so the mean over four is exact.
X_0 = np.array([0.5, 0.5, -0.5, -0.5])[:, None]
NOISE = np.array([1.0, -1.0, 1.0, -1.0])[:, None]
ENTROPY = 0.5 * np.log(2 * np.pi * np.e * DATA_VARIANCE)


def exact_terms(schedule, model, variance_type, dtype=np.float64):
    terms = bound_terms(
        model,
        schedule,
        x_0=jnp.asarray(X_0, dtype),
        noise=lambda t: jnp.asarray(NOISE, dtype),
        levels=256,
        variance_type=variance_type,
        decoder=density,
    )
    return jax.tree.map(lambda x: np.asarray(x, np.float64).mean(-1), terms)


def tables(schedule):
    """In NumPy alone: alphas_cumprod before and after each step, and the three reverse variances [T]."""
    betas = np.asarray(schedule.betas)
    a = np.cumprod(1 - betas)
    before = np.append(1, a[:-1])
    small = betas * (1 - before) / (1 - a)
    posterior = 1 / (1 / DATA_VARIANCE + a / (1 - a))  # Var(x_0 | x_t)
    return a, before, small, small + before * (betas / (1 - a)) ** 2 * posterior


def clipped(schedule, variance_type):
    _, _, small, _ = tables(schedule)
    later = {"fixed_small": small, "fixed_large": np.asarray(schedule.betas)}[variance_type][1:]
    return np.append(small[1], later)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_every_term_of_gaussian_data_is_its_closed_form(variance_type, dtype, rtol):
    # L_{t-1}: the posterior's mean misses x_0's by of_x_0 (x_0 - E[x_0 | x_t]), of variance optimal - small.
    schedule = fine(1000)
    _, _, small, best = tables(schedule)
    v = clipped(schedule, variance_type)
    closed = 0.5 * (np.log(v) - np.log(np.append(1, small[1:])) + best / v - 1)
    closed[0] = 0.5 * (np.log(2 * np.pi * v[0]) + best[0] / v[0])
    last = np.cumprod(1 - schedule.betas)[-1]
    prior = 0.5 * (-last - np.log1p(-last) + last * DATA_VARIANCE)
    with jax.enable_x64(dtype is np.float64):
        terms = exact_terms(schedule, optimal(), variance_type, dtype)
    # A term below the rounding of its parts, which are near 1, can't be had to a relative error.
    np.testing.assert_allclose(terms.by_step, closed, rtol=rtol, atol=rtol * 1e-3)
    np.testing.assert_allclose(terms.prior, prior, rtol=rtol)
    np.testing.assert_allclose(terms.total, prior + closed.sum(), rtol=rtol)


@pytest.mark.parametrize(("variance_type", "nats"), [("fixed_small", 4.368516351), ("fixed_large", 3.913260171)])
def test_the_divergences_of_gaussian_data_sum_to_the_reference_figure(variance_type, nats, x64):
    np.testing.assert_allclose(exact_terms(linear(), optimal(), variance_type).by_step[1:].sum(), nats, rtol=1e-9)


def gap(T, variance_type, log_variance=lambda schedule: None):
    schedule = fine(T)
    return exact_terms(schedule, optimal(log_variance(schedule)), variance_type).total - ENTROPY


@pytest.mark.parametrize(
    ("variance_type", "at_1000", "at_64000"), [("fixed_small", 0.570, 0.447), ("fixed_large", 0.115, 0.153)]
)
def test_fixed_variances_keep_a_constant_gap(variance_type, at_1000, at_64000, x64):
    np.testing.assert_allclose(gap(1000, variance_type), at_1000, atol=5e-4)
    found = gap(64_000, variance_type)
    np.testing.assert_allclose(found, at_64000, atol=5e-4)
    # Where it comes from. The first steps are not small beside the noise that is there: with nearly constant beta,
    # sigma_k² = k beta at the k-th, the posterior's variance is beta (k - 1)/k, and the best one beta for every k. A
    # variance v in place of the best costs (r - 1 - log r)/2, r = best / v: for k = 1, with beta~_2 = beta/2, it is
    # (1 - log 2)/2; for fixed_small each later k has r = k/(k - 1), and those sum to half of Euler's constant.
    limit = 0.5 * (1 - np.log(2)) + (0.5 * np.euler_gamma if variance_type == "fixed_small" else 0)
    np.testing.assert_allclose(found, limit, atol=6e-3)


def test_the_forward_variance_at_every_step_is_tight_in_the_limit(x64):
    forward = lambda schedule: np.log(schedule.betas)  # noqa: E731
    coarse, fine = gap(1000, "learned", forward), gap(64_000, "learned", forward)
    np.testing.assert_allclose([coarse, fine], [1.1e-3, 2e-5], rtol=0.2)
    np.testing.assert_allclose(coarse / fine, 64, rtol=0.05)  # of the first order


def test_the_optimal_variance_leaves_what_the_prior_costs(x64):
    schedule = fine(200)
    a = np.cumprod(1 - schedule.betas)[-1]
    last = a * DATA_VARIANCE + 1 - a  # of q(x_T)
    found = gap(200, "learned", lambda schedule: np.log(tables(schedule)[3]))
    np.testing.assert_allclose(found, 0.5 * (last - 1 - np.log(last)), atol=1e-12)


def reference_terms(variance_type, dtype):
    """(terms, their bits a dimension as float64) of the bound that improved-diffusion's code gives without drawing.

    A ramp over all 256 levels, noise of alternating signs, and a model that predicts 0.9 of it.
    """
    x_0 = jnp.asarray(np.round(255 * np.arange(192) / 191) / 127.5 - 1, dtype).reshape(1, 192)
    noise = jnp.asarray(np.where(np.arange(192) % 2, -1.0, 1.0), dtype).reshape(1, 192)
    terms = bound_terms(
        denoiser(lambda x_t, t, context: 0.9 * noise, linear()),
        linear(),
        x_0=x_0,
        noise=lambda t: noise,
        levels=256,
        variance_type=variance_type,
        decoder=tanh_discretised_gaussian_log_prob,
    )
    return terms, jax.tree.map(lambda x: np.asarray(x, np.float64)[..., 0] / 192 / np.log(2), terms)


@pytest.mark.parametrize(("variance_type", "total"), [("fixed_large", 1.93186902), ("fixed_small", 1.45712834)])
def test_the_reference_bound_without_random_numbers(variance_type, total, x64):
    # Its formulas in float64.
    terms, bits = reference_terms(variance_type, np.float64)
    np.testing.assert_allclose(bits.by_step[0], 1.31038933, rtol=1e-8)
    np.testing.assert_allclose(bits.prior, 9.819619e-6, rtol=2e-8)
    # The prior's term is all of E[x_0²] that the bound knows: the figure is printed from float32.
    a = linear().alphas_cumprod[-1]
    second_moment = (2 * np.log(2) * bits.prior + a + np.log1p(-a)) / a
    np.testing.assert_allclose(second_moment, 0.33728054, atol=1.5e-8)
    np.testing.assert_allclose(bits.total, total, rtol=1e-8)
    if variance_type == "fixed_large":
        np.testing.assert_allclose(bits.by_step[1], 0.17905892, atol=5e-9)
        np.testing.assert_allclose(bits.by_step[100], 2.6112494e-4, atol=5e-12)
        np.testing.assert_allclose(bits.by_step[1:].sum(), 0.62146987, atol=5e-9)
    snr = (linear().alpha / linear().sigma) ** 2
    if variance_type == "fixed_small":  # Luo 2022, eq. 108
        identity = 0.5 * (snr[:-1] - snr[1:]) * np.asarray(terms.squared_error)[1:, 0] / np.log(2)
        np.testing.assert_allclose(bits.by_step[1:], identity, rtol=1e-6)
        np.testing.assert_allclose(bits.by_step[1:].sum(), 0.14672919632, rtol=1e-9)


@pytest.mark.parametrize(
    ("variance_type", "theirs"),
    [
        ("fixed_large", {"L_0": 1.31038976, "1": 0.179058731, "100": 2.61120644e-4, "prior": 9.81903e-6}),
        ("fixed_large", {"sum": 0.621472663, "total": 1.931872239}),
        ("fixed_small", {"999": 1.47391853e-4, "sum": 0.14673372, "total": 1.4571333}),
    ],
)
def test_float32_is_closer_to_float64_than_the_reference(variance_type, theirs):
    # Both codes in float32, where the reference's differences of near numbers lose digits.
    def figures(dtype):
        bits = reference_terms(variance_type, dtype)[1]
        return {
            "L_0": bits.by_step[0],
            **{str(t): bits.by_step[t] for t in (1, 100, 999)},
            "sum": bits.by_step[1:].sum(),
            "prior": bits.prior,
            "total": bits.total,
        }

    ours = figures(np.float32)
    with jax.enable_x64(True):
        exact = figures(np.float64)
    for key, value in theirs.items():
        assert abs(ours[key] - exact[key]) < abs(value - exact[key]), key
    np.testing.assert_allclose(ours["999"], exact["999"], rtol=1e-4)


def test_each_step_has_its_own_noise_and_x_t(x64):
    schedule, seen = linear(7), []
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 2, 2, 1)))

    def model(x_t, level, context=None):
        jax.debug.callback(lambda *row: seen.append(row), x_t, level.t, ordered=True)
        return Prediction(0 * x_t, x_t)

    bound_terms(model, schedule, x_0=rows[7], noise=lambda t: rows[t], levels=17)
    jax.effects_barrier()
    assert [int(t) for _, t in seen] == list(range(7))
    for x_t, t in seen:
        np.testing.assert_allclose(x_t, q_sample(schedule, rows[7], int(t), rows[int(t)]), rtol=1e-12)


TWO = Mixture([0.3, 0.7], [[-0.6], [0.5]], 0.1)
"""Of which the posterior has two modes at some levels."""


def mean_terms(mixture, schedule, variance_type, count):
    """The terms' means over q(x_0) and the noise, by Gauss and Hermite's quadrature with this many nodes for each."""
    at, weight = np.polynomial.hermite_e.hermegauss(count)
    weight = weight / weight.sum()
    x_0 = (mixture.means + np.sqrt(mixture.variance) * at).ravel()
    weights = np.outer(mixture.weights[:, None] * weight, weight).ravel()
    x_0, noise = (jnp.asarray(pairs.reshape(-1, 1)) for pairs in np.meshgrid(x_0, at, indexing="ij"))
    terms = bound_terms(
        mixture.denoise_fn,
        schedule,
        x_0=x_0,
        noise=lambda t: noise,
        levels=256,
        variance_type=variance_type,
        decoder=density,
    )
    return jax.tree.map(lambda x: np.asarray(x) @ weights, terms)


def density_of(mixture, x):
    parts = np.exp(-((x - mixture.means) ** 2) / (2 * mixture.variance)) / np.sqrt(2 * np.pi * mixture.variance)
    return mixture.weights @ parts


def mmse(mixture, alpha, sigma):
    """E Var(x_0 | x_t) by sums over x_0 and x_t, the mixture's density being all that is known of it."""
    x_0, x_t = np.linspace(-4, 4, 801), np.linspace(-9, 9, 1801)
    joint = density_of(mixture, x_0) * np.exp(-((x_t[:, None] - alpha * x_0) ** 2) / (2 * sigma**2)) / sigma
    mass, first, second = ((joint * x_0**k).sum(1) for k in range(3))
    inside = mass > 1e-200
    return (second - first**2 / np.where(inside, mass, 1))[inside].sum() / mass.sum()


def test_the_terms_of_a_mixture_are_the_errors_of_the_best_guess(x64):
    # Kingma et al. 2021, eq. 15: L_{t-1} = (SNR_{t-1} - SNR_t) / 2 E|x_0 - x^_0|² with the posterior's own variance.
    schedule = linear(10, 0.02, 0.6)
    terms = mean_terms(TWO, schedule, "fixed_small", count=80)
    a = np.cumprod(1 - schedule.betas)
    snr, errors = a / (1 - a), [mmse(TWO, np.sqrt(a_t), np.sqrt(1 - a_t)) for a_t in a]
    np.testing.assert_allclose(terms.squared_error, errors, rtol=1e-10)
    expected = -0.5 * np.diff(snr) * errors[1:]
    np.testing.assert_allclose(terms.by_step[1:], expected, rtol=1e-10)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_bound_of_a_mixture_is_above_its_entropy_by_what_the_fixed_variance_costs(variance_type, x64):
    # No model's cross-entropy is below the entropy. What a fixed variance costs, it costs in the first steps, to which
    # any smooth density looks Gaussian: as much as for Gaussian data.
    x = np.linspace(-4, 4, 8001)
    q = density_of(TWO, x)
    entropy = -(q * np.log(q)).sum() * (x[1] - x[0])
    total = mean_terms(TWO, fine(1000), variance_type, count=24).total
    assert total > entropy
    np.testing.assert_allclose(total - entropy, gap(1000, variance_type), rtol=0.01)


def test_rate_and_distortion_of_gaussian_data(x64):
    # The error of the best guess is Var(x_0 | x_t); the rate falls to L_T at the noisiest step.
    schedule = fine(50)
    terms = exact_terms(schedule, optimal(), "fixed_small")
    rate, distortion = rate_distortion(jax.tree.map(lambda x: jnp.asarray(x)[..., None], terms))
    a = np.cumprod(1 - schedule.betas)
    np.testing.assert_allclose(distortion[:, 0], 1 / (4 + a / (1 - a)), rtol=1e-10)
    np.testing.assert_allclose(rate[-1, 0], terms.prior, rtol=1e-12)
    np.testing.assert_allclose(rate[0, 0], terms.total - terms.by_step[0], rtol=1e-12)
    for t in (0, 17, 48):
        np.testing.assert_allclose(rate[t, 0], terms.prior + terms.by_step[t + 1 :].sum(), rtol=1e-12)
