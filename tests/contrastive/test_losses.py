"""CLIP's losses and retrieval, against loops over all pairs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble import contrastive
from marble.contrastive import Pairs

RNG = np.random.default_rng(0)
N, D = 6, 3
IMAGES, TEXTS = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in RNG.normal(size=(2, N, D)))
TEXTS[4] = TEXTS[1]  # two images of one text
NAMES = ["a", "b", "c", "d", "b", "e"]
IS_PAIR = np.array([[a == b for b in NAMES] for a in NAMES])
SCALE, BIAS = 7.0, -2.0


def pairs_of(rows=slice(None), is_pair=IS_PAIR):
    images, texts = IMAGES.astype(np.float32), TEXTS.astype(np.float32)
    return Pairs(images[rows], texts[rows], images, texts, is_pair[rows])


def softmax_by_hand(i):
    """The mean over both ways, and over an image's pairs."""
    found = []
    for of, among in ((IMAGES, TEXTS), (TEXTS, IMAGES)):
        logits = [SCALE * float(of[i] @ other) for other in among]
        total = math.log(sum(map(math.exp, logits)))
        found.append(np.mean([total - logits[j] for j in range(N) if NAMES[i] == NAMES[j]]))
    return np.mean(found)


def test_what_went_over_a_bound_comes_back():
    """Gradient descent from below, at and above a bound of 2: to the minimum at 1, and never further up."""
    for start in (0.0, 2.0, 2.5):
        for loss, end in ((lambda x: (x - 1) ** 2, 1.0), (lambda x: -x, max(2.0, start))):
            slope = jax.jit(jax.grad(lambda x, loss=loss: loss(contrastive.at_most(x, 2.0))))
            x = jnp.float32(start)
            for _ in range(100):
                x = x - 0.1 * slope(x)
            np.testing.assert_allclose(x, end, atol=0.1)
    assert contrastive.at_most(jnp.float32(3.0), 2.0) == 2


def test_the_softmax_is_the_cross_entropy_both_ways():
    found = contrastive.softmax(pairs_of(), SCALE)
    np.testing.assert_allclose(found, [softmax_by_hand(i) for i in range(N)], rtol=1e-5)


def test_without_equal_texts_it_is_clip_s():
    """With the diagonal alone: optax's cross entropy with the labels 0, 1, 2, ..."""
    import optax

    found = contrastive.softmax(pairs_of(is_pair=np.eye(N, dtype=bool)), SCALE)
    logits = SCALE * (IMAGES @ TEXTS.T).astype(np.float32)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(
        found, 0.5 * (entropy(logits, np.arange(N)) + entropy(logits.T, np.arange(N))), rtol=1e-5
    )


def test_the_sigmoid_asks_of_each_pair():
    logits, sign = SCALE * IMAGES @ TEXTS.T + BIAS, np.where(IS_PAIR, 1, -1)
    expected = [sum(math.log1p(math.exp(-sign[i, j] * logits[i, j])) for j in range(N)) for i in range(N)]
    np.testing.assert_allclose(contrastive.sigmoid(pairs_of(), SCALE, BIAS), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [contrastive.softmax, lambda pairs, scale: contrastive.sigmoid(pairs, scale, BIAS)])
def test_a_part_of_the_batch_has_its_rows_of_the_whole(loss):
    parts = [loss(pairs_of(slice(start, start + 2)), SCALE) for start in range(0, N, 2)]
    np.testing.assert_allclose(np.concatenate(parts), loss(pairs_of(), SCALE), rtol=1e-6)


def test_perfect_pairs_cost_nothing_and_their_loss_falls_with_the_scale():
    eye = np.eye(4, dtype=np.float32)
    pairs = Pairs(eye, eye, eye, eye, np.eye(4, dtype=bool))
    losses = [float(contrastive.softmax(pairs, scale).mean()) for scale in (1.0, 10.0, 100.0)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-6
    np.testing.assert_allclose(losses[0], math.log(math.e + 3) - 1, rtol=1e-6)


def test_a_gradient_pulls_pairs_together():
    def total(images):
        return contrastive.softmax(pairs_of()._replace(images=images, all_images=images), SCALE).mean()

    images = jnp.asarray(IMAGES, jnp.float32)
    moved = images - 0.01 * jax.grad(total)(images)
    before, after = (np.sum(x * TEXTS) for x in (images, moved))
    assert after > before and total(moved) < total(images)


def recall_by_orders(similar, names, k):
    """The mean over all orders of equally similar candidates; for a handful of them."""
    found = []
    for i, row in enumerate(similar):
        hits = [
            any(names[j] == names[i] for j in sorted(order, key=lambda j: -row[j])[:k])
            for order in itertools.permutations(range(len(row)))
        ]
        found.append(np.mean(hits))
    return np.mean(found)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_recall_is_the_mean_over_the_orders_of_ties(k):
    similar = RNG.integers(0, 3, (N, N)).astype(float)
    found = contrastive.recall(similar, np.eye(N), NAMES, k=k)
    np.testing.assert_allclose(found, recall_by_orders(similar, NAMES, k), rtol=1e-9)


def test_chance_is_what_equal_embeddings_find():
    zeros = np.zeros((N, D))
    expected = np.mean([NAMES.count(name) / N for name in NAMES])
    np.testing.assert_allclose(contrastive.recall(zeros, zeros, NAMES), expected)
    assert contrastive.recall(np.eye(N), np.eye(N), NAMES) == 1
