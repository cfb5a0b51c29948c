"""EfficientNet-Lite0's real weights, of the file that MARBLE_EFFNET names or the installed package of the extra."""

import importlib.util
import os

import jax
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from marble.features import featurize, open_features
from marble.features.open import PACKAGE
from marble.parallel import ParallelConfig

PATH = os.environ.get("MARBLE_EFFNET")
pytestmark = pytest.mark.skipif(
    not PATH and importlib.util.find_spec(PACKAGE) is None,
    reason="MARBLE_EFFNET names no file of EfficientNet-Lite0's weights, and the extra features is not installed",
)
MONASTERY, PALACE, DAISY = 663, 698, 985
"""Of ImageNet's classes."""


def test_photos_are_told_apart():
    """scikit-learn's two, their middle squares: the first is a palace or monastery of China, the second a flower."""
    network = open_features(f"effnet:{PATH}" if PATH else "effnet")
    photos = np.stack([photo[:, 106:533] for photo in load_sample_images().images])  # of 427 x 640
    mapping = ParallelConfig().open(jax.devices()[:1])
    rows = next(featurize(network, [photos], mapping=mapping, batch_size=2, layers=("logits",)))
    china, flower = rows["logits"].argmax(axis=-1)
    assert china in (MONASTERY, PALACE) and flower == DAISY
