"""How sure a number is: what another draw of as many images would have given.

Most metrics are smooth functions of means over the images, m = f(mean of g(x)). To first order such a number moves by
the mean of the images' influences, so its standard error is that of a mean (Hampel 1974; the "infinitesimal
jackknife" of Jaeckel 1972), and costs one more pass. ``frechet_estimate``, ``inception_estimate`` and the MMDs have
theirs in closed form. ``jackknife`` and ``bootstrap`` find the same for any statistic, by asking it many times.

To second order a curved f is off on average: a Fréchet distance too large, an Inception score too small, by about C/n.
An interval about such a number misses the truth however many resamplings it has, and the percentiles of a bootstrap
miss it twice. So an ``Estimate`` of a curved metric has this bias taken off.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, stdtrit

from marble.errors import InputError
from marble.metrics.rows import as_rows


class Interval(NamedTuple):
    """It holds the truth with probability level, about."""

    low: float
    high: float
    level: float


class Estimate(NamedTuple):
    """A number about the distribution that the images are drawn from, as far as the images tell it."""

    value: float
    error: float
    """Its standard error."""
    degrees: float = math.inf
    """Degrees of freedom of the error; inf where it is as good as known."""

    def interval(self, level: float = 0.95) -> Interval:
        """value ± the quantile of Student's t times error. InputError for a level outside of (0, 1)."""
        if not 0 < level < 1:
            raise InputError(f"level={level} must be between 0 and 1, as 0.95")
        half = float(stdtrit(self.degrees, (1 + level) / 2)) * self.error
        return Interval(self.value - half, self.value + half, level)


def mean_estimate(values: np.ndarray) -> Estimate:
    """The mean of values [n], one an image, with s / sqrt(n). InputError for fewer than 2."""
    values = as_rows(np.asarray(values).reshape(-1, 1), "values", least=2)[:, 0].astype(np.float64)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)


def share_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Of the share of values [n], bool, one an image, that are true: Jeffreys' (Brown, Cai & DasGupta 2001).

    It stays within 0 and 1, and of no or all of n images it is not a point, as s / sqrt(n) would have it. InputError
    for no values, or a level outside of (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level={level} must be between 0 and 1, as 0.95")
    n = len(as_rows(np.asarray(values, bool).reshape(-1, 1), "values"))
    true = int(np.count_nonzero(values))
    low, high = (float(betaincinv(true + 0.5, n - true + 0.5, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return Interval(low if true else 0.0, high if true < n else 1.0, level)


def jackknife(statistic: Callable[[np.ndarray], float], n: int, *, groups: int = 20, seed: int = 0) -> Estimate:
    """statistic of n images with its 1/n bias removed, by leaving out each of some groups in turn (Quenouille 1956).

    statistic is given indices [m] of images, each once. For smooth statistics; for nearest neighbours, quantiles and
    the like neither this nor the bootstrap is right. groups of equal size to within one are drawn by the seed: more
    give a better error (Student's t allows for few), and take longer. InputError unless 2 <= groups <= n.
    """
    if not 2 <= groups <= n:
        raise InputError(f"groups={groups} must be between 2 and the number of images, {n}")
    member = np.random.default_rng(seed).permutation(n) % groups
    whole = float(statistic(np.arange(n)))
    without = np.array([float(statistic(np.flatnonzero(member != group))) for group in range(groups)])
    # Of a mean, a pseudovalue is the mean of the group that was left out.
    share = np.bincount(member, minlength=groups) / n
    pseudovalues = (whole - (1 - share) * without) / share
    error = float(pseudovalues.std(ddof=1)) / math.sqrt(groups)
    return Estimate(float(share @ pseudovalues), error, groups - 1)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, *, num: int = 200, seed: int = 0) -> Estimate:
    """statistic of n images with its bias removed, from its spread over resamplings with replacement (Efron 1979).

    statistic is given indices [n] of images, of which some come more than once: what compares images with each other
    would find copies. num is the number of resamplings: 200 give the error to 5 %. InputError for n or num below 2.
    """
    if n < 2 or num < 2:
        raise InputError(f"n={n} images and num={num} resamplings: a bootstrap takes at least 2 of each")
    rng = np.random.default_rng(seed)
    whole = float(statistic(np.arange(n)))
    resampled = np.array([float(statistic(rng.integers(0, n, n))) for _ in range(num)])
    return Estimate(2 * whole - float(resampled.mean()), float(resampled.std(ddof=1)), num - 1)
