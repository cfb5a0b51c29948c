"""p(x_s | x_t) of a strided chain, with a variance that knows how sure the prediction is.

Over a long stride the true x_s is spread by what x_t leaves open about x_0: with x_0 ~ N(x_0_hat, deviation²),

    p(x_s | x_t) = N(of_x_t x_t + of_x_0 x_0_hat, variance + (of_x_0 deviation)²)

where the three coefficients are those of q(x_s | x_t, x_0). The deviation is by bucket of the prediction: a pixel that
is predicted to be at the end of the range, as backgrounds are, is known better than one in its middle.
"""

import jax
import numpy as np

from marble.diffusion import Gaussian, Schedule
from marble.diffusion.process import q_posterior_coefficients

EDGES = np.array([-0.995, -0.96, -0.8, 0.8, 0.96], np.float32)
"""Between the buckets of a predicted x_0."""
BUCKETS = len(EDGES) + 1
DEVIATIONS = 2.0 ** (1 - np.arange(64) / 4)
"""What the codes 0..63 of deviations stand for, in units of x_0: from 2 down to 2^-14.75."""


def bucket(prediction: np.ndarray) -> np.ndarray:
    """The bucket of each predicted x_0, shaped like it."""
    return np.digitize(prediction, EDGES)


def posterior(*, x_0: np.ndarray, x_t: np.ndarray, schedule: Schedule, t: int, s: int) -> Gaussian:
    """q(x_s | x_t, x_0) (Kingma et al. 2021, appendix A.2), its variance shaped like its mean."""
    of_x_t, of_x_0, variance = coefficients(schedule, t, s)
    return Gaussian(of_x_t * x_t + of_x_0 * x_0, np.full(x_t.shape, variance))


def reverse(*, x_0: np.ndarray, deviation: np.ndarray, x_t: np.ndarray, schedule: Schedule, t: int, s: int) -> Gaussian:
    """p(x_s | x_t) for the predicted x_0 and its deviation, each shaped like x_t."""
    mean, variance = posterior(x_0=x_0, x_t=x_t, schedule=schedule, t=t, s=s)
    _, of_x_0, _ = coefficients(schedule, t, s)
    return Gaussian(mean, variance + (of_x_0 * deviation) ** 2)


def coefficients(schedule: Schedule, t: int, s: int) -> tuple[float, float, float]:
    """(of_x_t, of_x_0, variance) of q(x_s | x_t, x_0) from step t to a lower step s, as Python's floats."""
    with jax.enable_x64(False):  # files depend on every bit: no more of them where jax can have them
        of_x_t, of_x_0, variance = q_posterior_coefficients(schedule.level(t), schedule.level(s))
    return float(of_x_t), float(of_x_0), float(variance)
