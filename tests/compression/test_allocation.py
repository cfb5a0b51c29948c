"""The allocation, against Gaussian data whose uncertainty is known."""

import functools

import gaussian
import numpy as np
import pytest

from marble.compression import allocate, allocation
from marble.compression.transitions import DEVIATIONS
from marble.errors import InputError

PIXELS = gaussian.data(100)


@functools.cache
def allocated(num_steps, predict=gaussian.predict):
    return allocate(predict, gaussian.SCHEDULE, PIXELS, gaussian.LEVELS, num_steps=num_steps)


@pytest.mark.parametrize("num_steps", [None, 4, 9])
def test_the_chain_goes_from_noise_to_a_lower_level(num_steps):
    found = allocated(num_steps)
    count = 4 if num_steps is None else num_steps  # 12 pixels are worth no more than the fewest
    assert len(found.timesteps) == count + 1 and len(found.bits) == len(found.chunks) == count
    assert (np.diff(found.timesteps) < 0).all() and found.timesteps[-1] >= 0
    assert found.codes.shape[0] == count + 1
    assert all(1 <= bits <= allocation.MAX_BITS for bits in found.bits)
    alpha = gaussian.SCHEDULE.alpha[found.timesteps[0]]
    assert 0.5 * alpha**2 * gaussian.VARIANCE * gaussian.SIZE < 0.2  # nats that the first level has of the image


def test_pixels_that_know_nothing_of_each_other_are_left_to_the_decoder():
    """A chain pays by what pixels say about each other: without that, it stays where it starts."""
    timesteps = np.array(allocated(4).timesteps)
    assert timesteps[0] - timesteps[-1] == 4


def flat(x_t, t):
    """E[x_0 | x_t] of images of one grey each, N(0, VARIANCE)."""
    alpha, sigma = gaussian.SCHEDULE.alpha[t], gaussian.SCHEDULE.sigma[t]
    total = alpha**2 * gaussian.VARIANCE * gaussian.SIZE + sigma**2
    grey = alpha * gaussian.VARIANCE / total * x_t.sum(axis=1, keepdims=True)
    return np.clip(grey, -1, 1).repeat(gaussian.SIZE, axis=1).astype(np.float32)


def test_deviations_are_what_the_prediction_leaves_open():
    pixels = gaussian.data(400)[:, :1].repeat(gaussian.SIZE, axis=1)
    found = allocate(flat, gaussian.SCHEDULE, pixels, gaussian.LEVELS, num_steps=4)
    middle = DEVIATIONS[found.codes[:, 3]]  # the bucket from -0.8 to 0.8
    assert (np.diff(middle) < 0).all() and found.timesteps[0] - found.timesteps[-1] > 10
    alpha, sigma = gaussian.SCHEDULE.alpha[found.timesteps[0]], gaussian.SCHEDULE.sigma[found.timesteps[0]]
    total = alpha**2 * gaussian.VARIANCE * gaussian.SIZE + sigma**2
    assert 2**-0.25 < middle[0] / np.sqrt(gaussian.VARIANCE * sigma**2 / total) < 2**0.25


def test_the_number_of_steps_is_by_the_bits_of_the_chain(monkeypatch):
    # The grey of an image is one number, seen through SIZE pixels: of N(0, v) data the integral of Var(x_0 | x_t) / 2
    # over the SNR is log(1 + SIZE v SNR) / 2. That is four bits in all, cut here in half bits.
    monkeypatch.setattr(allocation, "CHUNK_BITS", 0.5)
    pixels = gaussian.data(400)[:, :1].repeat(gaussian.SIZE, axis=1)
    found = allocate(flat, gaussian.SCHEDULE, pixels, gaussian.LEVELS)
    snr = np.exp(gaussian.SCHEDULE.log_snr)[[found.timesteps[-1], found.timesteps[0]]]
    low, high = 0.5 * np.log2(1 + gaussian.SIZE * gaussian.VARIANCE * snr[::-1])
    assert len(found.bits) == pytest.approx((high - low) / 0.5, abs=1)


def test_a_bucket_without_pixels_takes_what_suits_the_others():
    found = allocated(4)
    assert found.codes[0, 0] == found.codes[0, 3]  # from noise, nothing is predicted to be at an end


@pytest.mark.parametrize("num_steps", [0, 3, 17])
def test_steps_out_of_range_are_refused(num_steps):
    with pytest.raises(InputError, match=f"num_steps={num_steps} must be between 4 and 16"):
        allocated(num_steps)
