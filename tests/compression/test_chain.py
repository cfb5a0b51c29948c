"""The chain: images to sections and back, against Gaussian data whose every quantity is known."""

import math

import gaussian
import numpy as np
import pytest

from marble.compression import Allocation, allocate, allocation, bound_bits, chain, decode, encode, random_coding
from marble.compression.decoder import pixel_bits
from marble.compression.transitions import DEVIATIONS, coefficients
from marble.data.preprocess import to_float
from marble.errors import InputError


@pytest.mark.parametrize("count", [1, 7, 40])
def test_images_come_back(count):
    pixels = gaussian.data(count)
    encoded = encode(gaussian.chain(count), pixels)
    images, exact = decode(gaussian.chain(count), encoded.sections)
    assert exact
    np.testing.assert_array_equal(images, pixels)
    length = 8 * sum(map(len, encoded.sections))
    assert encoded.ideal_bits <= length <= encoded.ideal_bits + 100


@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(0).integers(0, gaussian.LEVELS, (9, gaussian.SIZE)),
        np.zeros((3, gaussian.SIZE), np.int64),
        np.full((3, gaussian.SIZE), gaussian.LEVELS - 1),
        np.tile([0, gaussian.LEVELS - 1], (3, gaussian.SIZE // 2)),
    ],
    ids=["noise", "black", "white", "stripes"],
)
def test_images_like_none_of_the_data_come_back(pixels):
    images, _ = decode(gaussian.chain(len(pixels)), encode(gaussian.chain(len(pixels)), pixels).sections)
    np.testing.assert_array_equal(images, pixels)


def test_what_more_sections_say_is_nearer():
    pixels = gaussian.data(200)
    sections = encode(gaussian.chain(200), pixels).sections
    x_0 = np.asarray(to_float(pixels, gaussian.LEVELS))
    errors = []
    for count in range(len(sections)):
        images, exact = decode(gaussian.chain(200), sections[:count])
        assert not exact and abs(images).max() <= 1
        errors.append(((images - x_0) ** 2).mean())
    assert (np.diff(errors) < 0).all() and errors[-1] < errors[0] / 2


def test_the_seed_changes_the_noise_and_nothing_else():
    pixels = gaussian.data(5)
    one, same, other = (encode(gaussian.chain(5, seed), pixels).sections for seed in (0, 0, 1))
    assert one == same and one != other
    assert [len(section) for section in one[:-1]] == [len(section) for section in other[:-1]]


def test_the_bound_is_its_closed_form():
    count = 3000
    pixels = gaussian.data(count)
    x_0 = np.asarray(to_float(pixels, gaussian.LEVELS), np.float64)
    # From a level that still has much of the image, so that L_T counts.
    allocation = Allocation((40, 25, 12), (1, 1), (1, 1), gaussian.CODES[1:])
    steps, schedule = allocation.timesteps, gaussian.SCHEDULE
    alpha, sigma = schedule.alpha[steps[0]], schedule.sigma[steps[0]]
    nats = 0.5 * (alpha**2 * x_0**2 + sigma**2 - 1 - math.log(sigma**2)).sum()
    for t, s, code in zip(steps[:-1], steps[1:], allocation.codes[:-1, 0], strict=True):
        _, of_x_0, small = coefficients(schedule, t, s)
        bias, gain = 1 - gaussian.gain(t) * schedule.alpha[t], gaussian.gain(t)
        error = (bias * x_0) ** 2 + (gain * schedule.sigma[t]) ** 2  # of a linear prediction, over the noise
        large = small + (of_x_0 * DEVIATIONS[code]) ** 2
        nats += 0.5 * (np.log(large / small) + (small + of_x_0**2 * error) / large - 1).sum()
    gain, t = gaussian.gain(steps[-1]), steps[-1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    bits = nats / math.log(2)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        x_t = schedule.alpha[t] * x_0 + schedule.sigma[t] * node
        bits += weight * pixel_bits(pixels, gain * x_t, DEVIATIONS[gaussian.CODES[-1, 0]], gaussian.LEVELS).sum()
    found = bound_bits(gaussian.chain(count, allocation=allocation), pixels, seed=3)
    assert found == pytest.approx(bits, rel=0.005)


def test_numbers_of_every_width_are_packed_tightly():
    for bits in (0, 1, 7, 16):
        numbers = np.random.default_rng(bits).integers(0, 2**bits, (5, 3))
        packed = chain.pack(numbers, bits)
        assert len(packed) == chain.packed_size(15, bits) == math.ceil(15 * bits / 8)
        np.testing.assert_array_equal(chain.unpack(packed, (5, 3), bits), numbers)
    with pytest.raises(InputError, match="damaged"):
        chain.unpack(b"123", (5, 3), 7)


def test_a_chain_of_one_transition_without_bits_is_the_pixels_alone():
    allocation = Allocation((99, 50), (0,), (1,), gaussian.CODES[:2])
    pixels = gaussian.data(4)
    images, _ = decode(
        gaussian.chain(4, allocation=allocation), encode(gaussian.chain(4, allocation=allocation), pixels).sections
    )
    np.testing.assert_array_equal(images, pixels)


def test_no_two_uses_draw_the_same_numbers(monkeypatch):
    """The walk over training images, a file and its bound, all with the seed 0."""
    pixels, uses = gaussian.data(20), {}

    def record(name, function):
        def recorded(stream):
            first = make(stream).standard_normal(4).tobytes()
            uses.setdefault(first, set()).add((name, function))
            return make(stream)

        return recorded

    make = random_coding.generator
    for name, act in {
        "training": lambda: allocate(gaussian.predict, gaussian.SCHEDULE, pixels, gaussian.LEVELS, num_steps=4),
        "file": lambda: encode(gaussian.chain(20), pixels),
        "bound": lambda: bound_bits(gaussian.chain(20), pixels, seed=0),
    }.items():
        # The noise of levels is drawn by allocation and chain, the candidates of transitions by random_coding.
        for module in (allocation, random_coding):
            monkeypatch.setattr(module, "generator", record(name, module.__name__))
        act()
    assert len(uses) > 30 and {len(who) for who in uses.values()} == {1}
