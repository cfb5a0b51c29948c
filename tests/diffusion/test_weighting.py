"""Weights against the papers' formulas, in their own terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.diffusion import cosine, edm, from_betas, linear, rectified_flow, squaredcos_cap_v2, weighting
from marble.diffusion.continuous import from_curve
from marble.errors import InputError

T = jnp.array([0, 1, 10, 500, 999])
U = jnp.array([0.02, 0.3, 0.5, 0.9])


def test_elbo_weights_are_the_reference_ones(x64):
    weights = weighting.elbo(linear(), jnp.array([1, 2, 999]), variance_type="fixed_large")
    np.testing.assert_allclose(weights, [0.27269208, 0.19440198, 0.0102044935], rtol=1e-7)


def test_elbo_weights_are_half_the_ratio_of_snr_less_one(x64):
    # Kingma et al. 2021, eq. 13, as a weight of the error in eps.
    schedule, t = squaredcos_cap_v2(), np.arange(1, 1000)
    snr = (schedule.alpha / schedule.sigma) ** 2
    np.testing.assert_allclose(weighting.elbo(schedule, t), 0.5 * (snr[t - 1] / snr[t] - 1), rtol=1e-6)


@pytest.mark.parametrize("schedule", [cosine(), rectified_flow(), edm(), from_curve(lambda t: 13.3 - 18.3 * t**2)])
def test_continuous_elbo_is_the_limit_of_the_discrete_one(schedule, x64):
    # T times the weight of one of T steps, with the same log-SNR at the steps as the curve at t = i/T, falls to
    # -1/2 d log_snr / dt as 1/T. The steps of a curve: betas from its alphas, if it is variance preserving.
    def times_t(steps):
        log_snr = np.asarray(schedule.log_snr(jnp.arange(1, steps + 1) / steps))
        kept = 1 / (1 + np.exp(-log_snr))  # alphas_cumprod of the variance-preserving schedule of this log-SNR
        betas = 1 - kept / np.append(1.0, kept[:-1])
        return steps * weighting.elbo(from_betas(betas), (U * steps).astype(int) - 1)

    limit = weighting.elbo(schedule, U)
    errors = [np.abs(times_t(steps) / limit - 1) for steps in (1000, 4000)]
    assert (errors[1] < 0.05).all()
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.2)


def test_the_continuous_bound_depends_on_the_ends_alone(x64):
    # Integrated over t, a function of log-SNR under the elbo's weight is its integral over log-SNR (Kingma, sec. 5.1).
    t = jnp.linspace(0, 1, 20_001)
    of_log_snr = lambda log_snr: 1 / (1 + jnp.square(log_snr - 1))  # noqa: E731

    def bound(curve):
        return np.trapezoid(weighting.elbo(from_curve(curve), t) * of_log_snr(curve(t)), t)

    straight, bent = bound(lambda t: 6 - 10 * t), bound(lambda t: 6 - 10 * (0.2 * t + 0.8 * t**3))
    exact = 0.5 * (np.arctan(5) - np.arctan(-5))
    np.testing.assert_allclose([straight, bent], exact, rtol=1e-6)


@pytest.mark.parametrize(("schedule", "t"), [(linear(), T), (cosine(), U), (rectified_flow(), U), (edm(), U)])
def test_weights_are_their_papers_formulas(schedule, t, x64):
    level = schedule.level(t)
    snr, s = level.alpha**2 / level.sigma**2, level.sigma / level.alpha
    weight_of_x_0 = {  # as the papers state them
        weighting.snr: snr,
        weighting.min_snr: jnp.minimum(snr, 5.0),
        weighting.truncated_snr: jnp.maximum(snr, 1.0),
        weighting.edm: (s**2 + 0.5**2) / (s * 0.5) ** 2,
        weighting.p2: snr / (1 + snr),
        weighting.sigmoid: weighting.elbo(schedule, t) * jnp.exp(2.0) * jax.nn.sigmoid(jnp.log(snr) - 2.0),
    }
    for weigh, expected in weight_of_x_0.items():
        np.testing.assert_allclose(weigh(schedule, t) * snr, expected, rtol=1e-6, err_msg=weigh.__name__)
    np.testing.assert_allclose(weighting.p2(schedule, t, k=2.0, gamma=0.5), (2 + snr) ** -0.5, rtol=1e-6)
    np.testing.assert_allclose(weighting.min_snr(schedule, t, gamma=1.0), jnp.minimum(snr, 1) / snr, rtol=1e-6)


def test_a_bound_that_has_no_limit_or_no_table_is_refused():
    with pytest.raises(InputError, match="not 'fixed_large'"):
        weighting.elbo(cosine(), U, variance_type="fixed_large")
    with pytest.raises(InputError, match="'learned' has no table"):
        weighting.elbo(linear(), T, variance_type="learned")
