"""The entropy coder: what goes in comes out, at the length that theory gives."""

import numpy as np
import pytest

from marble.compression import entropy
from marble.errors import InputError


def coded(probabilities, symbols):
    cumulative = entropy.cumulative_frequencies(probabilities)
    return cumulative, entropy.encode(*entropy.intervals(cumulative, symbols))


def drawn(probabilities, rng):
    """A symbol of each row."""
    return (probabilities.cumsum(axis=1) < rng.random((len(probabilities), 1)) * 0.999999).sum(axis=1)


TABLES = {
    "even": lambda rng: np.full((6000, 17), 1 / 17),
    "random": lambda rng: rng.dirichlet(np.full(17, 0.3), 6000),
    "of one symbol": lambda rng: np.ones((6000, 1)),
    "256 levels": lambda rng: rng.dirichlet(np.full(256, 0.05), 3000),
    "nearly certain": lambda rng: np.tile([1e-12, 1 - 1e-3 - 1e-12, 1e-3], (20000, 1)),
}


@pytest.mark.parametrize("table", TABLES)
def test_symbols_come_back_at_their_ideal_length(table):
    rng = np.random.default_rng(0)
    probabilities = TABLES[table](rng)
    symbols = drawn(probabilities, rng)
    cumulative, message = coded(probabilities, symbols)
    decoder = entropy.Decoder(message)
    parts = [decoder.read(part) for part in np.array_split(cumulative, 3)]
    decoder.finish()
    np.testing.assert_array_equal(np.concatenate(parts), symbols)
    shannon = -np.log2(probabilities[np.arange(len(symbols)), symbols]).sum()
    assert abs(8 * len(message) - shannon) <= 0.001 * shannon + 0.001 * len(symbols) + 64
    _, frequencies = entropy.intervals(cumulative, symbols)
    ideal = entropy.ideal_bits(frequencies)
    assert 0 <= 8 * len(message) - ideal <= 0.001 * ideal + 64


def test_symbols_without_any_probability_come_back_too():
    probabilities = np.eye(5)[[0, 1, 2, 3, 4, 0]]
    symbols = np.array([4, 3, 2, 1, 0, 1])
    cumulative, message = coded(probabilities, symbols)
    np.testing.assert_array_equal(entropy.Decoder(message).read(cumulative), symbols)


def test_frequencies_are_whole_and_near_their_probabilities():
    probabilities = np.random.default_rng(0).dirichlet(np.full(30, 0.1), 100)
    frequencies = np.diff(entropy.cumulative_frequencies(probabilities), axis=1)
    assert (frequencies >= 1).all() and (frequencies.sum(axis=1) == 2**entropy.PRECISION).all()
    np.testing.assert_allclose(frequencies / 2**entropy.PRECISION, probabilities, atol=1e-4)


def test_a_message_that_ends_elsewhere_is_refused():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(8), 50)
    cumulative, message = coded(probabilities, drawn(probabilities, rng))
    for wrong, rows in ((message[:-2], 50), (message + b"xx", 50), (message, 49), (b"", 50), (message[:-1], 50)):
        with pytest.raises(InputError, match="damaged"):
            decoder = entropy.Decoder(wrong)
            decoder.read(cumulative[:rows])
            decoder.finish()
