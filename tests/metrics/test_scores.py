"""The Inception score and the CLIP score by their closed forms."""

import numpy as np
import pytest

from marble.errors import InputError
from marble.metrics import clip_score, inception_estimate, inception_score

RNG = np.random.default_rng(0)


def test_what_says_nothing_scores_1():
    same = np.tile(RNG.normal(size=7), (50, 1))
    assert inception_score(same) == pytest.approx((1, 0), abs=1e-12)
    assert inception_estimate(np.zeros((50, 7))) == pytest.approx((1, 0, np.inf), abs=1e-12)


def test_sure_and_even_scores_the_number_of_classes():
    sure = 1e4 * np.tile(np.eye(7), (20, 1))
    assert inception_score(sure, splits=10, shuffle=False) == pytest.approx((7, 0), rel=1e-12)
    assert inception_score(sure, splits=1) == pytest.approx((7, 0), rel=1e-12)
    # A class that is never seen changes nothing.
    assert inception_score(np.pad(sure, ((0, 0), (0, 3)), constant_values=-1e4), splits=1).mean == pytest.approx(7)


def test_a_noisy_channel():
    """p(y | x) is 1 - e for one of c classes, all as often: the information is log c - H(e) - e log(c - 1)."""
    c, e = 5, 0.3
    p = np.where(np.eye(c), 1 - e, e / (c - 1))
    truth = c * np.exp((1 - e) * np.log(1 - e) + e * np.log(e / (c - 1)))
    logits = np.tile(np.log(p), (40, 1)) + RNG.normal(size=(200, 1))  # a constant in each row is no information
    assert inception_score(logits, splits=4, shuffle=False) == pytest.approx((truth, 0), abs=1e-12)
    assert inception_score(np.tile(np.log(p), (40, 1)), splits=1).mean == pytest.approx(truth, rel=1e-12)


def test_parts_are_equal_and_in_their_order_unless_shuffled():
    """Parts of one class each score 1, and shuffled they do not."""
    ordered = 1e4 * np.repeat(np.eye(4), 6, axis=0)
    assert inception_score(ordered, splits=4, shuffle=False) == pytest.approx((1, 0), abs=1e-12)
    shuffled = inception_score(ordered, splits=4)
    assert shuffled.mean > 2 and shuffled.std > 0
    assert inception_score(ordered, splits=4, seed=1) != shuffled


def test_clip_scores_are_cosines_above_0():
    images = np.array([[3.0, 0], [1, 1], [0, 2], [1, 0]])
    texts = np.array([[5.0, 0], [1, 0], [0, -1], [0, 7]])
    found = clip_score(images, texts)
    np.testing.assert_allclose(found.scores, [100, 100 / 2**0.5, 0, 0])
    assert found.mean == pytest.approx((100 + 100 / 2**0.5) / 4)
    assert clip_score(images, texts, weight=2.5).mean == pytest.approx(found.mean / 40)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inception_score(np.ones((5, 3))), "splits=10 must be between 1 and the number of images, 5"),
        (lambda: inception_score(np.ones((5, 3)), splits=0), "splits=0"),
        (lambda: inception_score(np.log(np.eye(3)), splits=1), "logits: row 0 has NaN or infinity"),
        (lambda: inception_estimate(np.ones((1, 3))), "logits are 1, and 2 is the least"),
        (lambda: clip_score(np.ones((3, 2)), np.ones((2, 2))), "3 images and 2 texts are no pairs"),
        (lambda: clip_score(np.ones((3, 2)), np.ones((3, 4))), "2 dimensions and the texts' embeddings 4"),
        (lambda: clip_score(np.ones((3, 2)), np.eye(3)[:, :2]), "the texts' embeddings: row 2 is 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
