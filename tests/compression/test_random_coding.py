"""Minimal random coding: the number names the sample, and the samples are of q."""

import itertools

import numpy as np
import pytest
from scipy import stats

from marble.compression import random_coding
from marble.diffusion import Gaussian


def stream(seed, step=0):
    return random_coding.Stream(random_coding.Use.CANDIDATES, seed, step)


def pair(count, size, *, shift, of_variance=0.6):
    """q and p [count size]; q is shifted by so many of p's deviations, and narrower."""
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(count, size)), rng.uniform(0.5, 2, (count, size))
    return Gaussian(mean + shift * np.sqrt(variance), of_variance * variance), Gaussian(mean, variance)


@pytest.mark.parametrize(("bits", "chunks"), [(3, 1), (13, 1), (5, 3)])
def test_the_number_is_that_of_the_likeliest_candidate(bits, chunks):
    q, p = pair(2, 7, shift=0.4)
    numbers = random_coding.choose(q, p, stream(5, 1), bits=bits, chunks=chunks)
    assert numbers.shape == (2, chunks) and numbers.min() >= 0 and numbers.max() < 2**bits
    every = np.arange(2**bits)
    for image in range(2):
        rows = [Gaussian(*(np.repeat(part[image : image + 1], 2**bits, axis=0) for part in g)) for g in (q, p)]
        x = random_coding.candidate(np.repeat(every[:, None], chunks, axis=1), rows[1], stream(5, 1), bits=bits)
        log_q, log_p = (stats.norm.logpdf(x, g.mean, np.sqrt(g.variance)) for g in rows)
        for chunk in range(chunks):
            weights = (log_q - log_p)[:, chunk::chunks].sum(axis=1)
            assert weights[numbers[image, chunk]] == pytest.approx(weights.max(), abs=1e-4)


@pytest.mark.parametrize(("chunks", "wanted"), [(1, "q"), (2, "q")])
def test_at_temperature_1_samples_are_of_q(chunks, wanted):
    q, p = pair(1, 4, shift=0.5)
    samples = []
    for seed in range(400):
        numbers = random_coding.choose(q, p, stream(seed), bits=9, chunks=chunks, temperature=1.0)
        samples.append(random_coding.candidate(numbers, p, stream(seed), bits=9)[0])
    of_q, of_p = ((np.array(samples) - g.mean) / np.sqrt(g.variance) for g in (q, p))
    assert stats.kstest(of_q.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(of_p.ravel(), "norm").pvalue < 1e-6  # and not of p
    np.testing.assert_allclose(of_q.mean(axis=0), 0, atol=4 / 20)
    np.testing.assert_allclose(of_q.var(axis=0), 1, atol=4 * np.sqrt(2) / 20)
    correlation = np.corrcoef(of_q.T) - np.eye(4)
    assert abs(correlation).max() < 4 / 20


def test_images_that_share_candidates_have_samples_of_q_each():
    q, p = pair(1, 3, shift=0.3)
    many = [Gaussian(*(np.repeat(part, 300, axis=0) for part in g)) for g in (q, p)]
    numbers = random_coding.choose(*many, stream(1), bits=12, chunks=1, temperature=1.0)
    samples = random_coding.candidate(numbers, many[1], stream(1), bits=12)
    assert stats.kstest(((samples - q.mean) / np.sqrt(q.variance)).ravel(), "norm").pvalue > 1e-3


def test_more_bits_bring_the_likeliest_candidate_nearer_to_q():
    q, p = pair(1, 16, shift=0.5)
    distances = []
    for bits in (0, 4, 8, 12):
        of_bits = []
        for seed in range(50):
            numbers = random_coding.choose(q, p, stream(seed), bits=bits, chunks=1)
            x = random_coding.candidate(numbers, p, stream(seed), bits=bits)
            of_bits.append(((x - q.mean) ** 2 / q.variance).mean())
        distances.append(np.mean(of_bits))
    # A candidate of p is off by p's variance and the shift; a sample of q would be off by 1.
    assert distances[0] == pytest.approx((1 + 0.25) / 0.6, rel=0.2)
    assert (np.diff(distances) < -0.05).all()


def test_streams_that_differ_anywhere_are_other_numbers():
    """Zeros at the end too, which NumPy's seeds do not see."""
    streams = itertools.product(random_coding.Use, (0, 1, 2**32 - 1), (0, 1, 2), (0, 1, 2))
    firsts = [random_coding.generator(random_coding.Stream(*words)).standard_normal(4).tobytes() for words in streams]
    assert len(set(firsts)) == len(firsts) == 6 * 27
