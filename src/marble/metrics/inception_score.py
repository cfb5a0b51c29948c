"""The Inception score: exp of the information that an image has of its class (Salimans et al. 2016)."""

import itertools
import math

import numpy as np
from scipy.special import log_softmax, logsumexp

from marble.errors import InputError
from marble.metrics.intervals import Estimate
from marble.metrics.kernel import Spread
from marble.metrics.rows import as_rows, blocks


def inception_score(logits: np.ndarray, *, splits: int = 10, shuffle: bool = True, seed: int = 2020) -> Spread:
    """exp E KL(p(y | x) || p(y)) of logits [n c], or log-probabilities, over equal parts of the images.

    Between 1 (all images have the same classes) and c (sure of each, and all as often). torch-fidelity takes logits
    without the bias, and shuffles images by this generator and seed before it cuts them (Salimans et al. did not).
    Fewer images in a part score lower: 10 parts of 5000 are the convention. InputError for fewer images than parts.
    """
    logits = as_rows(logits, "logits")
    n = len(logits)
    if not 1 <= splits <= n:
        raise InputError(f"splits={splits} must be between 1 and the number of images, {n}")
    order = np.random.RandomState(seed).permutation(n) if shuffle else np.arange(n)
    ends = [i * n // splits for i in range(splits + 1)]
    scores = []
    for start, end in itertools.pairwise(ends):
        log_p = log_softmax(np.asarray(logits[order[start:end]], np.float64), axis=1)
        scores.append(math.exp(_information(log_p, _marginal(log_p)).mean()))
    return Spread(float(np.mean(scores)), float(np.std(scores)))


def inception_estimate(logits: np.ndarray) -> Estimate:
    """The Inception score of endless images, from logits [n c] without parts, with its error.

    To first order an image moves the logarithm by 1/n of its KL(p(y | x) || p(y)) less the mean. The mean is too small
    by about sum_y Var p(y | x) / p(y) / 2n, because the marginal is of these images, and its exponential is too large
    by half its variance: both are taken off. InputError for n below 2.
    """
    logits = as_rows(logits, "logits", least=2)
    n = len(logits)
    marginals = [_marginal(log_softmax(block, axis=1)) + math.log(len(block) / n) for _, block in blocks(logits)]
    marginal = logsumexp(marginals, axis=0)
    information, second = np.empty(n), 0.0
    for place, block in blocks(logits):
        log_p = log_softmax(block, axis=1)
        information[place] = _information(log_p, marginal)
        second += np.exp(2 * log_p - marginal).sum()
    # sum_y E p² / p(y) - 1 is the sum over classes of Var p / p(y).
    missing = (second / n - 1) / (2 * n)
    variance = float(information.var(ddof=1)) / n
    score = math.exp(information.mean() + missing - variance / 2)
    return Estimate(score, score * math.sqrt(variance))


def _marginal(log_p: np.ndarray) -> np.ndarray:
    """log of the mean of p [n c]: [c]; as logarithms, a class that is never seen has no p log p of 0 times infinity."""
    return logsumexp(log_p, axis=0) - math.log(len(log_p))


def _information(log_p: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """KL(p(y | x) || p(y)) of each image [n]."""
    return (np.exp(log_p) * (log_p - marginal)).sum(1)
