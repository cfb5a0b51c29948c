"""The bound with a learned schedule, on Gaussian data whose optimal denoiser and whose integrals are known."""

import jax
import jax.numpy as jnp
import numpy as np

from marble.diffusion import discretised_gaussian_log_prob
from marble.diffusion.continuous import from_curve
from marble.diffusion.likelihood import prior_kl_at
from marble.models import LearnedMonotone
from marble.objectives.learned_schedule import (
    reconstruction_loss,
    variational_estimate,
    variational_loss_fn,
)

CURVE = LearnedMonotone(6.0, -5.0, features=4)


def curve_fn(params, t):
    return CURVE.apply({"params": params}, t)


def params_of(seed=0):
    curve = CURVE.init(jax.random.key(seed), jnp.zeros(1))["params"]
    return {"scale": jnp.asarray(0.7), "log_snr": curve}


def diffusion_losses(params, log_snr, slope, ends):
    """Any smooth losses of all that they may depend on."""
    told = (ends[0] - log_snr) / (ends[0] - ends[1])
    return -0.5 * slope * (params["scale"] ** 2 + jnp.sin(told) * params["scale"] + jax.nn.sigmoid(log_snr))


def losses_at(params, curve, t):
    log_snr, slope = jax.jvp(lambda t: curve_fn(curve, t), (t,), (jnp.ones_like(t),))
    return diffusion_losses(params, log_snr, slope, (curve_fn(curve, jnp.zeros(())), curve_fn(curve, jnp.ones(()))))


def test_the_estimate_has_its_value_and_both_gradients(x64):
    # Against autodiff of the two definitions: the mean for model and ends, the mean square for the shape.
    params, t = jax.tree.map(lambda x: x.astype(float), params_of()), jnp.array([0.1, 0.4, 0.75, 0.9])
    value, gradient = jax.value_and_grad(lambda p: variational_estimate(diffusion_losses, curve_fn, p, t).mean())(
        params
    )
    mean = lambda p: losses_at(p, p["log_snr"], t).mean()  # noqa: E731
    square = lambda p: jnp.square(losses_at(p, p["log_snr"], t)).mean()  # noqa: E731
    np.testing.assert_allclose(value, mean(params), rtol=1e-12)
    of_mean, of_square = jax.grad(mean)(params), jax.grad(square)(params)
    np.testing.assert_allclose(gradient["scale"], of_mean["scale"], rtol=1e-10)
    for end in ("log_snr_max", "fall"):
        np.testing.assert_allclose(gradient["log_snr"][end], of_mean["log_snr"][end], rtol=1e-10)
    jax.tree.map(
        lambda found, exact: np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-13),
        gradient["log_snr"]["shape"],
        of_square["log_snr"]["shape"],
    )


def gaussian_losses(curve, t):
    """Of N(0, 1/4) data and the optimal denoiser, in expectation: -1/2 slope * E[(noise - eps)²]."""
    log_snr, slope = jax.jvp(lambda t: curve_fn(curve, t), (t,), (jnp.ones_like(t),))
    return -0.5 * slope * 0.25 * jnp.exp(log_snr) / (0.25 * jnp.exp(log_snr) + 1)


def test_the_shape_changes_no_expectation_and_training_it_lowers_the_variance(x64):
    params = jax.tree.map(lambda x: x.astype(float), CURVE.init(jax.random.key(0), jnp.zeros(1))["params"])
    t = (jnp.arange(2000) + 0.5) / 2000

    def gradient_of_shape(shape):
        estimate = lambda s: variational_estimate(  # noqa: E731
            lambda p, log_snr, slope, ends: -0.5 * slope * 0.25 * jnp.exp(log_snr) / (0.25 * jnp.exp(log_snr) + 1),
            curve_fn,
            {"log_snr": {**params, "shape": s}},
            t,
        ).mean()
        return jax.grad(estimate)(shape)

    @jax.jit
    def descend(shape):
        gradient = gradient_of_shape(shape)
        return jax.tree.map(lambda x, g: x - 0.05 * g, shape, gradient)

    shape = params["shape"]
    before = gaussian_losses(params, t)
    for _ in range(1000):  # far enough from any start
        shape = descend(shape)
    after = gaussian_losses({**params, "shape": shape}, t)
    # Kingma et al. 2021, section 5.1: the integral of mmse over log-SNR, here log(1 + SNR/4) / 2 between the ends.
    exact = 0.5 * (np.log1p(0.25 * np.exp(6.0)) - np.log1p(0.25 * np.exp(-5.0)))
    np.testing.assert_allclose([before.mean(), after.mean()], exact, rtol=1e-3)
    assert after.var() < 0.5 * before.var()


def test_the_reconstruction_is_its_formula(x64):
    schedule = from_curve(lambda t: 6.0 - 11.0 * t)
    x_0 = jnp.asarray(np.random.default_rng(0).integers(0, 17, (2, 3, 3, 1)) / 8 - 1.0)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=x_0.shape))
    s = np.exp(-3.0)
    expected = -discretised_gaussian_log_prob(x_0, x_0 + s * noise, s**2, 17).mean((1, 2, 3))
    np.testing.assert_allclose(reconstruction_loss(schedule, x_0, noise, 17), expected, rtol=1e-9)


class Wiener:
    """The optimal eps of N(0, 1/4) data, told what a network is: t = 1000 times how far the log-SNR is."""

    num_classes = None

    def apply(self, variables, x_t, t, context, *, train, rngs):
        log_snr = 6.0 - 11.0 * t[:, None, None, None] / 1000
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
        return sigma / (0.25 * alpha**2 + sigma**2) * x_t


def test_the_bound_of_the_optimal_model_is_its_integral():
    # Data of 65 levels over [-1, 1] with nearly a Gaussian's chances, and a linear denoiser.
    levels = 65
    values = np.arange(levels) / 32 - 1
    chance = np.exp(-(values**2) / (2 * 0.25))
    chance /= chance.sum()
    x_0 = np.random.default_rng(0).choice(values, (512, 8, 8, 1), p=chance).astype(np.float32)
    second_moment = (chance * values**2).sum()
    params = {"log_snr": CURVE.init(jax.random.key(0), jnp.zeros(1))["params"]}
    loss_fn = variational_loss_fn(
        Wiener(), CURVE, timestep_sampling="low_discrepancy", batch_size=512, levels=levels, train=False
    )
    batch = {"image": jnp.asarray(x_0), "index": jnp.arange(512)}
    loss, metrics = jax.jit(loss_fn)(params, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["loss_by_t"].sum() / 512, loss, rtol=1e-5)
    # In expectation, by quadrature over log-SNR: the errors of a linear denoiser need the second moment alone.
    log_snr = np.linspace(-5, 6, 4001)
    a2, s2 = 1 / (1 + np.exp(-log_snr)), 1 / (1 + np.exp(log_snr))
    slope = np.sqrt(s2) / (0.25 * a2 + s2)
    mse = (1 - slope * np.sqrt(s2)) ** 2 + slope**2 * a2 * second_moment
    schedule = from_curve(lambda t: 6.0 - 11.0 * t)
    many = jnp.asarray(np.repeat(values, 2000), jnp.float32)[:, None]
    noise = jax.random.normal(jax.random.key(2), many.shape)
    weights = jnp.repeat(jnp.asarray(chance, jnp.float32), 2000) / 2000
    prior = prior_kl_at(schedule.level(jnp.ones(())), many)
    fixed = (weights * (prior + reconstruction_loss(schedule, many, noise, levels))).sum()
    expected = float(fixed) + np.trapezoid(0.5 * mse, log_snr)
    assert abs(float(loss) - expected) < 0.03
    entropy = -(chance * np.log(chance)).sum()
    assert entropy < expected
