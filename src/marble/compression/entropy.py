"""Entropy coding: symbols of known probabilities as bytes, within a few bytes of Σ -log2 p.

Asymmetric numeral systems (Duda 2009; the range variant): the message is one large number, and a symbol of the
frequency f out of 2^PRECISION makes it 2^PRECISION / f times larger. It is last in, first out: the encoder takes the
symbols from the last to the first, so that the decoder reads them forwards.

Encoder and decoder must have the same integers, so probabilities become frequencies before anything is coded, and no
symbol's frequency is 0: whatever the model thinks of a symbol, it can be written.
"""

import numpy as np

from marble.errors import InputError

PRECISION = 20
"""Frequencies sum to 2^PRECISION; the least likely symbol costs PRECISION bits."""
LOW = 1 << 36
"""The state stays in [LOW, LOW << WORD): so far above 2^PRECISION that its rounding costs nothing."""
WORD = 16
STATE_BYTES = 7


def cumulative_frequencies(probabilities: np.ndarray) -> np.ndarray:
    """Integers [n k+1], from 0 to 2^PRECISION, rising by each symbol's frequency >= 1; probabilities are [n k]."""
    total, symbols = 1 << PRECISION, probabilities.shape[1]
    frequencies = np.floor(probabilities * (total - symbols)).astype(np.int64) + 1
    likeliest = probabilities.argmax(axis=1)
    frequencies[np.arange(len(frequencies)), likeliest] += total - frequencies.sum(axis=1)
    return np.pad(np.cumsum(frequencies, axis=1), ((0, 0), (1, 0)))


def intervals(cumulative: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(start, frequency), each [n], of the symbols [n] in their tables [n k+1]."""
    rows = np.arange(len(symbols))
    start = cumulative[rows, symbols]
    return start, cumulative[rows, symbols + 1] - start


def ideal_bits(frequencies: np.ndarray) -> float:
    """Σ -log2 of the probabilities that the frequencies stand for: the least that these symbols can take."""
    return float((PRECISION - np.log2(frequencies)).sum())


def encode(starts: np.ndarray, frequencies: np.ndarray) -> bytes:
    """The message of symbols with these intervals, each [n]."""
    state, words = LOW, []
    for start, frequency in zip(starts[::-1].tolist(), frequencies[::-1].tolist(), strict=True):
        while state >= frequency * (LOW << WORD >> PRECISION):
            words.append(state & ((1 << WORD) - 1))
            state >>= WORD
        state = (state // frequency << PRECISION) + state % frequency + start
    return state.to_bytes(STATE_BYTES, "big") + np.array(words[::-1], ">u2").tobytes()


class Decoder:
    """Reads a message from its start; ``read`` may be called again and again, with the next tables."""

    def __init__(self, message: bytes) -> None:
        if len(message) < STATE_BYTES or (len(message) - STATE_BYTES) % 2:
            raise InputError(f"{len(message)} bytes are not a coded message: the file is damaged")
        self._state = int.from_bytes(message[:STATE_BYTES], "big")
        self._words = iter(np.frombuffer(message, ">u2", offset=STATE_BYTES).tolist())

    def read(self, cumulative: np.ndarray) -> np.ndarray:
        """The next symbols [n], by their tables [n k+1]; InputError where the message is too short."""
        symbols = np.empty(len(cumulative), np.int64)
        for i, table in enumerate(cumulative):
            slot = self._state & ((1 << PRECISION) - 1)
            symbols[i] = symbol = table.searchsorted(slot, side="right") - 1
            start, end = int(table[symbol]), int(table[symbol + 1])
            self._state = (end - start) * (self._state >> PRECISION) + slot - start
            while self._state < LOW:
                self._state = (self._state << WORD) | self._next_word()
        return symbols

    def finish(self) -> None:
        """InputError unless the message ends here: read with the tables that it was written with, it does."""
        if self._state != LOW or next(self._words, None) is not None:
            raise InputError("the coded pixels do not end where they should: the file is damaged")

    def _next_word(self) -> int:
        word = next(self._words, None)
        if word is None:
            raise InputError("the coded pixels end too soon: the file is damaged")
        return word
