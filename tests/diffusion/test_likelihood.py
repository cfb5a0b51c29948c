"""L_0 and the figures that depend on the number of levels. The divergences are tested with the loss they become."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from marble.data.sources import open_source
from marble.diffusion import linear, prior_kl, q_sample, reconstruction_nll, rectified_flow, x_0_from_eps
from marble.diffusion.decoder import discretised_gaussian_log_prob, tanh_discretised_gaussian_log_prob
from marble.diffusion.likelihood import prior_kl_at
from marble.errors import InputError
from marble.typing import Prediction


def reference_example():
    """An image of 192 pixels, its noise, and what a model that predicts 0.9 of it sees at step 0."""
    x_0 = jnp.asarray(np.round(255 * np.arange(192) / 191) / 127.5 - 1).reshape(1, 192)
    noise = jnp.asarray(np.where(np.arange(192) % 2, -1.0, 1.0)).reshape(1, 192)
    x_t = q_sample(linear(), x_0, 0, noise)
    prediction = Prediction(x_0_from_eps(x_t=x_t, eps=0.9 * noise, level=linear().level(0)), 0.9 * noise)
    return dict(prediction=prediction, x_0=x_0, x_t=x_t)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_l_0_is_the_reference_s_without_random_numbers(variance_type, x64):
    # 1.31038933 bits a dimension: improved-diffusion's formulas in float64, its clipped variance for both types.
    found = reconstruction_nll(
        linear(),
        **reference_example(),
        levels=256,
        variance_type=variance_type,
        decoder=tanh_discretised_gaussian_log_prob,
    )
    np.testing.assert_allclose(found / 192 / np.log(2), 1.31038933, rtol=1e-8)
    assert found.shape == (1,)


def test_l_0_has_the_variance_of_the_step_after(x64):
    example, schedule = reference_example(), linear()
    betas, a = schedule.betas, np.cumprod(1 - schedule.betas)
    variance = betas[1] * (1 - a[0]) / (1 - a[1])
    x_0, mean = example["x_0"], example["prediction"].x_0
    expected = -discretised_gaussian_log_prob(x_0, mean, jnp.asarray(variance), 256).sum(1)
    np.testing.assert_allclose(reconstruction_nll(schedule, **example, levels=256), expected, rtol=1e-9)


def test_a_learned_variance_is_used_at_step_0_too(x64):
    example = reference_example()
    learned = example["prediction"]._replace(variance=jnp.full((1, 192), np.log(3e-3)))
    found = reconstruction_nll(linear(), **{**example, "prediction": learned}, levels=256, variance_type="learned")
    expected = -discretised_gaussian_log_prob(example["x_0"], learned.x_0, jnp.asarray(3e-3), 256).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(InputError, match="learned"):
        reconstruction_nll(linear(), **example, levels=256, variance_type="learned")


def test_a_perfect_prediction_costs_what_the_bins_leave(x64):
    # At sigma = 0.01 and away from the edges: 1.71 bits a dimension for 256 levels, nothing for 17.
    for levels, bits in ((256, 1.71), (17, 0.0)):
        x_0 = jnp.asarray(2 * np.arange(1, levels - 1) / (levels - 1) - 1)
        found = -discretised_gaussian_log_prob(x_0, x_0, jnp.asarray(0.01**2), levels) / np.log(2)
        np.testing.assert_allclose(found, bits, atol=5e-3)


def test_the_digits_under_uniform_dequantisation(x64):
    # Their exact distribution of values, blurred by sigma = 0.01: 10.0 bits a dimension, against an entropy of 2.98.
    images = np.concatenate([open_source("digits").read(split).image for split in ("train", "test")])
    share = np.bincount(images.ravel(), minlength=17) / images.size
    np.testing.assert_allclose(-(share * np.log2(share)).sum(), 2.98, atol=5e-3)
    values, sigma = np.linspace(-1, 1, 17), 0.01
    inside = (np.arange(5001) + 0.5) / 5001 / 8 - 1 / 16  # a bin, 1/8 wide
    distance = (values[:, None] + inside)[..., None] - values
    log_density = logsumexp(np.log(share / sigma / np.sqrt(2 * np.pi)) - distance**2 / 2 / sigma**2, axis=-1)
    nats = -(share * log_density.mean(1)).sum() - np.log(1 / 8)
    np.testing.assert_allclose(nats / np.log(2), 10.0, atol=0.05)


def test_the_prior_term_is_the_same_on_every_path(x64):
    x_0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)))
    level = linear().level(700)
    np.testing.assert_allclose(
        prior_kl_at(rectified_flow().level_at(level.log_snr), x_0), prior_kl_at(level, x_0), rtol=1e-9
    )
    last = linear().level(999)
    np.testing.assert_allclose(prior_kl(linear(), x_0), prior_kl_at(last, x_0), rtol=1e-12)
    v = float(last.sigma) ** 2
    expected = 0.5 * (v - 1 - np.log(v) + float(last.alpha) ** 2 * np.asarray(x_0) ** 2).sum(1)
    np.testing.assert_allclose(prior_kl(linear(), x_0), expected, rtol=1e-9)
