"""The denoising loss in every space, and the ELBO terms that it comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from marble.diffusion import (
    cosine,
    denoising_loss,
    edm,
    eps_from_x_0,
    hybrid_share,
    linear,
    mean_held,
    prior_kl,
    q_posterior,
    q_sample,
    read,
    rectified_flow,
    rescale_zero_terminal_snr,
    transition_kl,
    vlb_term,
    weighting,
    x_0_from_eps,
)
from marble.diffusion.likelihood import gaussian_kl
from marble.diffusion.loss import eps_share
from marble.diffusion.prediction import READINGS
from marble.diffusion.process import Gaussian
from marble.typing import Prediction


def images(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def noisy(seed, *shape, schedule=None, t=None):
    """x_0, noise, a model's guess of the noise, and x_t."""
    x_0, noise, eps = (images(seed + i, *shape) for i in range(3))
    return x_0, noise, eps, q_sample(schedule, x_0, t, noise)


def test_l_simple_is_the_mean_square_of_the_noise_error(x64):
    schedule, t = linear(), jnp.array([3, 900])
    x_0, noise, eps, _ = noisy(0, 2, 4, 4, 1, schedule=schedule, t=t)
    losses = denoising_loss(eps, "eps", x_0=x_0, noise=noise, level=schedule.level(t))
    np.testing.assert_allclose(losses, ((noise - eps) ** 2).mean((1, 2, 3)), rtol=1e-12)


SCHEDULES = {
    "steps": (linear(), jnp.array([0, 400, 999])),
    "cosine": (cosine(), jnp.array([0.01, 0.5, 0.99])),
    "exploding": (edm(), jnp.array([0.01, 0.5, 0.99])),
    "straight": (rectified_flow(), jnp.array([0.01, 0.5, 0.99])),
}


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [(kind, name) for kind in READINGS for name in SCHEDULES if kind != "posterior_mean" or name == "steps"],
)
def test_the_same_weight_is_the_same_loss_for_every_prediction_type(kind, schedule, x64):
    schedule, t = SCHEDULES[schedule]
    x_0, noise, eps, x_t = noisy(0, 3, 4, 2, schedule=schedule, t=t)
    level, weight = schedule.level(t), jnp.array([0.3, 2.0, 7.0])
    prediction = Prediction(x_0_from_eps(x_t=x_t, eps=eps, level=level), eps)
    reading = dict(level=level, level_s=schedule.previous_level(t) if kind == "posterior_mean" else None)
    output = read(prediction, kind, **reading)
    losses = denoising_loss(output, kind, x_0=x_0, noise=noise, weight=weight, **reading)
    np.testing.assert_allclose(losses, weight * ((noise - eps) ** 2).mean((1, 2)), rtol=1e-6)


def test_weights_of_v_and_x_0_are_the_papers(x64):
    # Variance preserving: of x_0 it is SNR times that of eps, of v alpha² times (Salimans & Ho 2022, appendix D).
    schedule, t = linear(), jnp.array([0, 400, 999])
    level = schedule.level(t)
    np.testing.assert_allclose(eps_share("x_0", level) ** 2, jnp.exp(level.log_snr), rtol=1e-9)
    np.testing.assert_allclose(eps_share("v", level) ** 2, level.alpha**2, rtol=1e-9)
    np.testing.assert_array_equal(eps_share("eps", level), 1)


@pytest.mark.parametrize("kind", ["x_0", "v", "flow"])
@pytest.mark.parametrize("weigh", [weighting.elbo, weighting.min_snr, weighting.p2, weighting.sigmoid, weighting.edm])
def test_a_last_step_without_any_image_has_its_finite_loss(kind, weigh):
    # In the limit of no image, the weight of the error in x_0 is SNR w: for the ELBO SNR_{T-2} / 2 (Kingma et al. 2021,
    # eq. 13), for the edm 1 / std², for the others 0 or that of a bounded weight on eps.
    schedule, t = rescale_zero_terminal_snr(linear()), jnp.array([999])
    x_0, noise = images(0, 1, 6).astype(jnp.float32), images(1, 1, 6).astype(jnp.float32)
    level = schedule.level(t)
    guess = 0.5 * x_0
    output = read(Prediction(guess, noise), kind, level=level)  # x_t is the noise: any guess of x_0 has this eps
    loss = denoising_loss(output, kind, x_0=x_0, noise=noise, level=level, weight=weigh(schedule, t))
    snr_before = (schedule.alpha[-2] / schedule.sigma[-2]) ** 2
    at_limit = {weighting.elbo: snr_before / 2, weighting.sigmoid: snr_before / 2, weighting.edm: 1 / 0.5**2}
    expected = at_limit.get(weigh, 0.0) * (0.25 * x_0**2).mean()
    np.testing.assert_allclose(loss[0], expected, rtol=1e-4, atol=1e-20)


def test_x_0_s_loss_in_float32_does_not_pass_through_eps():
    # At the noisiest step alpha is 0.006: an error of 1e-4 in x_0 is one of 6e-7 in eps, float32's rounding.
    schedule, t = linear(), jnp.array([999])
    x_0, noise = (images(i, 1, 64).astype(jnp.float32) for i in (0, 1))
    loss = denoising_loss(
        x_0 + 1e-4, "x_0", x_0=x_0, noise=noise, level=schedule.level(t), weight=weighting.snr(schedule, t)
    )
    error = np.asarray(x_0 + 1e-4, np.float64) - np.asarray(x_0, np.float64)
    expected = (schedule.alpha[-1] / schedule.sigma[-1]) ** 2 * (error**2).mean()
    np.testing.assert_allclose(loss[0], expected, rtol=1e-5)
    x_t = q_sample(schedule, x_0, t, noise)
    through_eps = ((eps_from_x_0(x_t=x_t, x_0=x_0 + 1e-4, level=schedule.level(t)) - noise) ** 2).mean()
    assert abs(through_eps / expected - 1) > 1e-3


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_elbo_weighted_loss_is_the_divergence_of_the_transitions(variance_type, x64):
    # Eq. 12: but for what does not depend on the model, L_{t-1} is the weighted eps error.
    schedule, t = linear(), jnp.array([1, 400, 999])
    x_0, noise, eps, x_t = noisy(0, 3, 5, schedule=schedule, t=t)

    def divergence(eps):
        prediction = Prediction(x_0_from_eps(x_t=x_t, eps=eps, level=schedule.level(t)), eps)
        return transition_kl(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type=variance_type)

    weight = weighting.elbo(schedule, t, variance_type=variance_type)
    losses = denoising_loss(eps, "eps", x_0=x_0, noise=noise, level=schedule.level(t), weight=weight)
    np.testing.assert_allclose(divergence(eps) - divergence(noise), 5 * losses, rtol=1e-7)
    if variance_type == "fixed_small":
        np.testing.assert_allclose(divergence(noise), 0, atol=1e-12)  # then both have the posterior's variance


def prediction_of(schedule, x_t, t, eps, variance):
    return Prediction(x_0_from_eps(x_t=x_t, eps=eps, level=schedule.level(t)), eps, variance)


def test_the_bound_s_terms_by_scipy(x64):
    # Learned variances at step 0 and later, from the definitions: KL of two Gaussians, and the chance of a bin.
    schedule, t = linear(10, 1e-3, 0.3), jnp.array([0, 1, 9])
    x_0 = jnp.asarray(np.random.default_rng(0).integers(0, 17, (3, 4)) / 8 - 1.0)
    noise, eps, raw = images(1, 3, 4), images(2, 3, 4), images(3, 3, 4)
    x_t = q_sample(schedule, x_0, t, noise)
    options = dict(x_0=x_0, x_t=x_t, t=t, levels=17)
    for variance_type in ("learned", "learned_range"):
        found = vlb_term(schedule, prediction_of(schedule, x_t, t, eps, raw), variance_type=variance_type, **options)
        small = np.array([weighting.reverse_variance(schedule, "fixed_small")[i] for i in t])[:, None]
        large = schedule.betas[np.array(t)][:, None]
        share = (np.asarray(raw) + 1) / 2
        v = {"learned": np.exp(raw), "learned_range": large**share * small ** (1 - share)}[variance_type]
        mean = (x_t - large / schedule.sigma[np.array(t)][:, None] * eps) / np.sqrt(1 - large)
        alpha = np.append(1.0, schedule.alpha)
        sigma2 = np.append(0.0, schedule.sigma**2)
        s = np.array(t)[:, None]
        true_mean = alpha[s] * large / sigma2[s + 1] * x_0 + np.sqrt(1 - large) * sigma2[s] / sigma2[s + 1] * x_t
        kl = 0.5 * (np.log(v / small) + small / v + (true_mean - mean) ** 2 / v - 1)
        upper = np.where(x_0 == 1, np.inf, (x_0 + 1 / 16 - mean) / np.sqrt(v))
        lower = np.where(x_0 == -1, -np.inf, (x_0 - 1 / 16 - mean) / np.sqrt(v))
        l_0 = -np.log(norm.cdf(upper) - norm.cdf(lower))
        expected = np.append(l_0[:1].mean(1), kl[1:].mean(1)) / np.log(2)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_variance_s_loss_moves_the_variance_alone(x64):
    schedule, t = linear(10, 1e-3, 0.3), jnp.array([0, 1, 9])
    x_0 = jnp.asarray(np.random.default_rng(0).integers(0, 17, (3, 4)) / 8 - 1.0)
    noise, eps, raw = images(1, 3, 4), images(2, 3, 4), images(3, 3, 4)
    x_t = q_sample(schedule, x_0, t, noise)

    def loss(eps, raw, held):
        prediction = held(prediction_of(schedule, x_t, t, eps, raw))
        return vlb_term(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type="learned_range", levels=17).sum()

    of_eps, of_variance = jax.grad(loss, (0, 1))(eps, raw, mean_held)
    np.testing.assert_array_equal(of_eps, 0)
    assert (of_variance != 0).all()
    # What moves it is all of the term's gradient.
    np.testing.assert_array_equal(of_variance, jax.grad(loss, 1)(eps, raw, lambda prediction: prediction))
    # 0.001 times the sum over T terms, of which one is drawn.
    assert hybrid_share(schedule) == pytest.approx(0.001 * 10)


def test_the_best_learned_variance_is_the_mean_square_about_the_mean(x64):
    # Minimising L_{t-1} over v gives v = the posterior's variance + the squared error of the mean.
    schedule, t = linear(), jnp.array([500])
    x_0, _, eps, x_t = noisy(0, 1, 1, schedule=schedule, t=t)
    levels = dict(level_t=schedule.level(t), level_s=schedule.previous_level(t))
    truth = q_posterior(x_0=x_0, x_t=x_t, **levels)
    mean = q_posterior(x_0=x_0_from_eps(x_t=x_t, eps=eps, level=levels["level_t"]), x_t=x_t, **levels).mean

    def loss(log_variance):
        prediction = prediction_of(schedule, x_t, t, eps, log_variance)
        return vlb_term(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type="learned", levels=256).sum()

    best = jnp.log(truth.variance + (truth.mean - mean) ** 2)
    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-12)
    assert loss(best) < min(loss(best + 0.01), loss(best - 0.01))


def test_gaussian_kl_by_quadrature(x64):
    p, q = Gaussian(jnp.asarray(0.3), jnp.asarray(0.5)), Gaussian(jnp.asarray(-0.2), jnp.asarray(1.7))
    x = np.linspace(-15, 15, 300_001)
    log = lambda g: -0.5 * (x - float(g.mean)) ** 2 / float(g.variance) - 0.5 * np.log(2 * np.pi * float(g.variance))  # noqa: E731
    integral = np.trapezoid(np.exp(log(p)) * (log(p) - log(q)), x)
    np.testing.assert_allclose(gaussian_kl(p, q), integral, rtol=1e-9)
    assert gaussian_kl(p, p) == 0


def test_gaussian_kl_of_close_variances_does_not_cancel():
    # To second order KL(N(0, v (1 + d)), N(0, v)) = d^2 / 4: in float32 the textbook form gives 0 for d = 1e-4.
    p, q = (Gaussian(jnp.zeros(()), jnp.float32(v)) for v in (1 + 2**-13, 1))
    np.testing.assert_allclose(gaussian_kl(p, q), 2.0**-28, rtol=1e-3)


def test_prior_kl_is_the_figure_of_the_formula(x64):
    # E[x^2] = 0.25, 0.3, 1: 7.28e-6, 8.73e-6, 2.91e-5 bits a dimension.
    for second_moment, bits in ((0.25, 7.28e-6), (0.30, 8.73e-6), (1.0, 2.91e-5)):
        x_0 = jnp.full((1, 4, 4, 1), np.sqrt(second_moment))
        np.testing.assert_allclose(prior_kl(linear(), x_0) / 16 / np.log(2), bits, rtol=1e-3)


@pytest.mark.parametrize(("variance_type", "nats"), [("fixed_small", 4.368516351), ("fixed_large", 3.913260171)])
def test_the_transitions_of_gaussian_data_with_the_optimal_model(variance_type, nats, x64):
    # x_0 ~ N(0, 1/4): the optimal eps is linear in x_t, so each expected L_{t-1} follows from two noise values
    # (+-1) for x_0 and noise: the terms are quadratic, and +-1 has a Gaussian's mean and variance.
    schedule, t = linear(), jnp.arange(1, 1000)
    signs = jnp.array([(x, n) for x in (-0.5, 0.5) for n in (-1.0, 1.0)])
    total = 0.0
    for x, n in np.asarray(signs):
        x_0, noise = jnp.full((999, 1), x), jnp.full((999, 1), n)
        x_t = q_sample(schedule, x_0, t, noise)
        level = schedule.level(t).like(x_t)
        eps = level.sigma / (level.alpha**2 / 4 + level.sigma**2) * x_t
        prediction = Prediction(x_0_from_eps(x_t=x_t, eps=eps, level=schedule.level(t)), eps)
        total += transition_kl(schedule, prediction, x_0=x_0, x_t=x_t, t=t, variance_type=variance_type).sum() / 4
    np.testing.assert_allclose(total, nats, rtol=1e-9)


def test_the_reference_bound_without_random_numbers(x64):
    # A fixed image and noise, a model that predicts 0.9 noise: terms t >= 1 in bits a dimension, from the float64
    # reference formulas of improved-diffusion.
    schedule = linear()
    x_0 = jnp.asarray(np.round(255 * np.arange(192) / 191) / 127.5 - 1).reshape(1, 192)
    noise = jnp.asarray(np.where(np.arange(192) % 2, -1.0, 1.0)).reshape(1, 192)

    def bits(t, variance_type):
        t = jnp.atleast_1d(jnp.asarray(t))
        x, n = jnp.repeat(x_0, len(t), 0), jnp.repeat(noise, len(t), 0)
        x_t = q_sample(schedule, x, t, n)
        prediction = Prediction(x_0_from_eps(x_t=x_t, eps=0.9 * n, level=schedule.level(t)), 0.9 * n)
        found = transition_kl(schedule, prediction, x_0=x, x_t=x_t, t=t, variance_type=variance_type)
        return np.asarray(found) / 192 / np.log(2)

    large, small = (bits(np.arange(1, 1000), name) for name in ("fixed_large", "fixed_small"))
    np.testing.assert_allclose(large[[0, 99]], [0.17905892, 2.6112494e-4], rtol=3e-8)
    np.testing.assert_allclose(large[[9, 998]], [8.34629e-3, 1.47219747e-4], rtol=6e-7)
    np.testing.assert_allclose(large.sum(), 0.62146987, rtol=1e-8)
    np.testing.assert_allclose(small[[0, 9]], [8.65148e-3, 1.13940e-3], rtol=1e-5)
    np.testing.assert_allclose(small.sum(), 0.14672919632, rtol=1e-9)
    np.testing.assert_allclose(prior_kl(schedule, x_0) / 192 / np.log(2), 9.819619e-6, rtol=1e-6)


def test_l_t_by_the_snr_identity(x64):
    # Luo 2022, eq. 108: with the posterior's variance, L_{t-1} = (SNR_{t-1} - SNR_t) / 2 * the error in x_0.
    schedule, t = linear(), jnp.array([1, 50, 999])
    x_0, x_t, predicted = images(0, 3, 6), images(1, 3, 6), images(2, 3, 6)
    snr = np.exp(2 * np.log(schedule.alpha / schedule.sigma))
    expected = 0.5 * (snr[np.array(t) - 1] - snr[np.array(t)]) * ((x_0 - predicted) ** 2).sum(1)
    found = transition_kl(schedule, Prediction(predicted, x_t), x_0=x_0, x_t=x_t, t=t)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
