"""Known orderings on the real CIFAR-10, by EfficientNet-Lite0's real weights: what is worse has the larger distance.

MARBLE_CIFAR10 is the folder of the original files; see tests/features/test_effnet_weights.py for the weights.
"""

import importlib.util
import io
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from marble.data.originals import read_cifar10
from marble.evaluation import EvaluationOptions, Evaluator, of_arrays
from marble.features import open_features
from marble.features.open import PACKAGE
from marble.parallel import ParallelConfig

CIFAR10, EFFNET = os.environ.get("MARBLE_CIFAR10"), os.environ.get("MARBLE_EFFNET")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not CIFAR10, reason="MARBLE_CIFAR10 names no folder of CIFAR-10's files"),
    pytest.mark.skipif(
        not EFFNET and importlib.util.find_spec(PACKAGE) is None,
        reason="MARBLE_EFFNET names no file of EfficientNet-Lite0's weights, and the extra features is not installed",
    ),
]
NUM = int(os.environ.get("MARBLE_CIFAR10_NUM", 2000))
"""Images of each set."""


@pytest.fixture(scope="module")
def cifar10():
    splits = read_cifar10(Path(CIFAR10))
    rng = np.random.default_rng(0)
    order = {split: rng.permutation(len(pixels.image)) for split, pixels in splits.items()}
    return {split: (pixels.image[order[split]], pixels.label[order[split]]) for split, pixels in splits.items()}


@pytest.fixture(scope="module")
def judge(cifar10):
    """By NUM training images."""
    network = open_features(f"effnet:{EFFNET}" if EFFNET else "effnet")
    options = EvaluationOptions(metrics=("fd", "memorization"), intervals=False)
    reference = of_arrays(cifar10["train"][0][:NUM], name="train")
    mapping = ParallelConfig().open(jax.devices()[:1])
    return Evaluator(options, reference, networks=[network], mapping=mapping)


def measured(judge, images):
    found = {number.name: number.value for number in judge.numbers(of_arrays(images))}
    print(found)
    return found


def noisy(images, deviation):
    noise = np.random.default_rng(1).normal(0, deviation, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


def blurred(images, deviation):
    return np.round(gaussian_filter(images.astype(np.float32), (0, deviation, deviation, 0))).astype(np.uint8)


def compressed(images, quality):
    def one(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([one(image) for image in images])


def test_worse_images_are_further_away(cifar10, judge):
    images, labels = cifar10["test"]
    test = images[:NUM]
    fresh = measured(judge, test)["FD-EffNetLite0"]
    for spoil, strengths in ((noisy, (5, 20)), (blurred, (0.5, 1.0)), (compressed, (60, 15))):
        values = [measured(judge, spoil(test, strength))["FD-EffNetLite0"] for strength in strengths]
        assert fresh < values[0] < values[1], spoil.__name__
    of_classes = [
        measured(judge, images[labels < num][:NUM])["FD-EffNetLite0"] for num in (8, 4)
    ]  # as many images of fewer classes
    assert fresh < of_classes[0] < of_classes[1]


def test_a_copied_training_set_is_caught_and_a_fresh_one_is_not(cifar10, judge):
    train, test = cifar10["train"][0], cifar10["test"][0]
    copied, fresh = measured(judge, train[:NUM]), measured(judge, test[:NUM])
    assert copied["FD-EffNetLite0"] < 1e-3 < fresh["FD-EffNetLite0"]
    half = measured(judge, np.concatenate([train[: NUM // 2], test[: NUM // 2]]))
    for space in ("pixels", "effnet-lite0"):
        assert copied[f"copied ({space})"] == 1 and copied[f"authenticity ({space})"] == 0
        assert fresh[f"copied ({space})"] < 0.05 and fresh[f"authenticity ({space})"] > 0.3
        np.testing.assert_allclose(half[f"copied ({space})"], 0.5 + fresh[f"copied ({space})"] / 2, atol=0.03)
