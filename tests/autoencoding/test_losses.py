"""The parts of an autoencoder's loss, against NumPy and against what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble import autoencoding

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
IMAGES, ORIGINALS = RNG.uniform(-1, 1, (2, 3, 6, 6, 3)).astype(np.float32)


def test_pixels_are_each_image_s_means():
    found = autoencoding.absolute(IMAGES, ORIGINALS), autoencoding.squared(IMAGES, ORIGINALS)
    for i in range(3):
        np.testing.assert_allclose(found[0][i], np.abs(IMAGES[i] - ORIGINALS[i]).mean(), rtol=1e-6)
        np.testing.assert_allclose(found[1][i], ((IMAGES[i] - ORIGINALS[i]) ** 2).mean(), rtol=1e-6)


def test_perceptual_is_the_distance_of_directions():
    """2 - 2 cos of the angle between the channels at each place, its mean over places, summed over layers."""
    layers = [RNG.normal(size=(2, 3, side, side, 7)) for side in (4, 2)]
    expected = sum(
        (2 - 2 * (f * g).sum(-1) / np.linalg.norm(f, axis=-1) / np.linalg.norm(g, axis=-1)).mean(axis=(1, 2))
        for f, g in layers
    )
    first, second = ([layer[i].astype(np.float32) for layer in layers] for i in (0, 1))
    np.testing.assert_allclose(autoencoding.perceptual(first, second), expected, rtol=1e-5)
    scaled = [3 * layer for layer in first]
    np.testing.assert_allclose(autoencoding.perceptual(scaled, second), expected, rtol=1e-5)
    np.testing.assert_array_equal(autoencoding.perceptual(first, first), 0)


def test_perceptual_has_a_gradient_where_a_place_says_nothing():
    zeros = jnp.zeros((1, 2, 2, 3))
    gradient = jax.grad(lambda f: autoencoding.perceptual([f], [jnp.ones_like(f)]).sum())(zeros)
    assert np.isfinite(gradient).all()


def test_the_hinge_asks_for_a_margin_and_no_more():
    def by_hand(real, fake):
        return 0.5 * np.maximum(0, 1 - real).mean() + 0.5 * np.maximum(0, 1 + fake).mean()

    expected = [by_hand(real, fake) for real, fake in zip(REAL, FAKE, strict=True)]
    np.testing.assert_allclose(autoencoding.hinge(REAL, FAKE), expected, rtol=1e-6)
    far = np.full((1, 2, 2), 1.5, np.float32)
    np.testing.assert_array_equal(autoencoding.hinge(far, -far), 0)


def test_the_likelihood_is_that_of_a_coin_for_each_patch():
    def log_sigmoid(x):
        return -np.log1p(np.exp(-x.astype(np.float64)))

    expected = -0.5 * (log_sigmoid(REAL) + log_sigmoid(-FAKE)).mean(axis=(1, 2))
    np.testing.assert_allclose(autoencoding.likelihood(REAL, FAKE), expected, rtol=1e-6)
    zeros = np.zeros((1, 2, 2), np.float32)
    np.testing.assert_allclose(autoencoding.likelihood(zeros, zeros), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("loss", autoencoding.DISCRIMINATOR_LOSSES.values(), ids=autoencoding.DISCRIMINATOR_LOSSES)
def test_the_generator_goes_where_the_discriminator_is_deceived(loss):
    """What lowers -D(x^) raises the discriminator's own loss of it, within the hinge's margin."""
    fake = np.clip(FAKE, -0.9, 0.9)
    own = jax.grad(lambda f: loss(REAL, f).sum())(fake)
    opponent = jax.grad(lambda f: autoencoding.generator_loss(f).sum())(fake)
    assert (own > 0).all() and (opponent < 0).all()


def test_weighed_gradients_are_of_one_length():
    first, second = RNG.normal(size=(2, 3, 3, 8, 3)).astype(np.float32)
    weight = autoencoding.adaptive_weight(first, 50 * second)
    np.testing.assert_allclose(np.linalg.norm(weight * 50 * second), np.linalg.norm(first), rtol=1e-4)
    np.testing.assert_allclose(autoencoding.adaptive_weight(first, np.zeros_like(second)), 1e4)
    assert autoencoding.adaptive_weight(np.zeros_like(first), second) == 0
