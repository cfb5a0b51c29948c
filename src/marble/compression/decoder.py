"""p(x_0 | x_t): a Gaussian around the predicted x_0, cut in the levels that a pixel can take (Ho et al. 2020, eq. 13).

A level's probability is the Gaussian's between the middles to its two neighbours; the lowest and the highest take the
tails. A share of ESCAPE is spread over all levels, so that an image like none in training costs bits, not an error.
"""

import numpy as np
from scipy.special import ndtr

ESCAPE = 1e-3


def level_probabilities(mean: np.ndarray, deviation: np.ndarray, levels: int) -> np.ndarray:
    """The probability [n levels] of each level of pixels with these means and deviations [n], in float64."""
    inner = (2 * np.arange(levels - 1) + 1) / (levels - 1) - 1
    below = ndtr((inner - np.float64(mean)[:, None]) / np.float64(deviation)[:, None])
    # The difference cancels in the upper tail, but not above ESCAPE / levels, which is added to it.
    inside = np.diff(below, axis=1, prepend=0.0, append=1.0)
    return (1 - ESCAPE) * inside + ESCAPE / levels


def pixel_bits(pixels: np.ndarray, mean: np.ndarray, deviation: np.ndarray, levels: int) -> np.ndarray:
    """-log2 p(x_0 | x_t) of pixels, integers in 0..levels-1; all shaped alike. Tells what a file would cost."""

    def below(edge):
        return ndtr((edge / (levels - 1) - 1 - mean) / deviation)

    low = np.where(pixels == 0, 0.0, below(2.0 * pixels - 1))
    high = np.where(pixels == levels - 1, 1.0, below(2.0 * pixels + 1))
    return -np.log2((1 - ESCAPE) * (high - low) + ESCAPE / levels)
