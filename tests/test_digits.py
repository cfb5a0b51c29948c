"""The quickstart's model: its digits are real ones to a nearest-neighbour test. Minutes on two cores."""

import numpy as np
import pytest
from processes import finished, marble
from sklearn.svm import SVC

from marble.data.preprocess import to_float, to_uint8
from marble.data.sources import open_source
from marble.metrics import nearest_neighbour_accuracy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    for words in (
        ("train", "--config", "configs/digits.py", "--workdir", folder / "run"),
        ("sample", "--workdir", folder / "run", "--num", 800, "--batch_size", 200, "--out", folder / "out"),
    ):
        finished(marble(*words, optimised=True), timeout=3000)
    return np.load(folder / "out" / "samples.npz")["arr_0"]


def real(split):
    """Real digits as uint8 0..255, and their labels."""
    examples = open_source("digits").read(split)
    images, labels = (np.stack([examples[i][key] for i in range(len(examples))]) for key in ("image", "label"))
    return np.asarray(to_uint8(to_float(images, 17), 17)), labels


def test_generated_digits_are_told_from_training_digits_by_chance_only(generated):
    images, _ = real("train")
    chosen = images[np.random.default_rng(0).permutation(len(images))[:800]]
    accuracy = nearest_neighbour_accuracy(generated, chosen)
    print("800 generated against 800 training digits:", accuracy)
    assert 0.42 <= accuracy <= 0.56


def test_they_are_no_copies_of_training_digits(generated):
    held_out, _ = real("test")
    accuracy = nearest_neighbour_accuracy(generated[:360], held_out)
    print("360 generated against the 360 held-out digits:", accuracy)
    assert accuracy <= 0.6


def test_every_class_has_its_share(generated):
    images, labels = real("train")
    classifier = SVC(C=10).fit(images.reshape(len(images), -1) / 255, labels)
    held_out, held_out_labels = real("test")
    assert classifier.score(held_out.reshape(len(held_out), -1) / 255, held_out_labels) > 0.97
    shares = np.bincount(classifier.predict(generated.reshape(len(generated), -1) / 255), minlength=10) / len(generated)
    print("shares of the classes:", shares)
    assert shares.min() >= 0.03
