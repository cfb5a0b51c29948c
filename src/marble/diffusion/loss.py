"""The losses: one error of a prediction, whatever it is a prediction of, and the term of the bound for its variance.

A network's output is a reading ``a x_0 + b eps`` (``prediction``). Of two predictions of one x_t the readings differ in
proportion, for ``alpha dx_0 + sigma deps = 0``:

    d(a x_0 + b eps) = (alpha b - sigma a) / alpha * deps

So an error in the network's own space, times a number that depends on the noise level alone, is the error in eps, in
x_0, in v. Weights are stated for the error in eps (``weighting``), and turned into those of the network's own error;
eps itself, which at high noise would be the difference of almost equal numbers, is never formed.
"""

import jax
import jax.numpy as jnp

from marble.diffusion.likelihood import mean_of_image, reconstruction_nll, transition_kl
from marble.diffusion.prediction import PredictionType, coefficients, read
from marble.diffusion.process import VarianceType
from marble.diffusion.schedules import LOWEST_LOG_SNR, Schedule
from marble.typing import Array, Level, Prediction


def denoising_loss(
    output: Array,
    prediction_type: PredictionType,
    *,
    x_0: Array,
    noise: Array,
    level: Level,
    level_s: Level | None = None,
    weight: Array | None = None,
) -> Array:
    """w_t mean((noise - eps)²) of each image, from the network's output for x_t = alpha x_0 + sigma noise.

    Without a weight it is mean((output - target)²), weight 1 in the network's own space: L_simple for eps (Ho et al.
    2020, eq. 14). weight [b] is that of the error in eps, so that the same weight is the same loss for every
    prediction type; with ``weighting.elbo`` it is the bound's term in nats a dimension. output, x_0 and noise are
    [b ...]; level_s is for the posterior mean alone. Returns [b]; means are in float32 or wider.
    """
    error = output - read(Prediction(x_0, noise), prediction_type, level=level, level_s=level_s)
    squared_error = mean_of_image(jnp.square(error))
    if weight is None:
        return squared_error
    share = eps_share(prediction_type, level, level_s)
    return (jnp.asarray(weight) * share**2).astype(squared_error.dtype) * squared_error


def eps_share(prediction_type: PredictionType, level: Level, level_s: Level | None = None) -> Array:
    """alpha / (alpha b - sigma a): the error in eps that an error of 1 in the reading is."""
    a, b = coefficients(prediction_type, level, level_s)
    # Where no image is left, a weight of the error in x_0 is an infinite one of that in eps: both stop short of it.
    alpha = jnp.maximum(level.alpha, level.sigma * jnp.exp(LOWEST_LOG_SNR / 2))
    return alpha / (level.alpha * b - level.sigma * a)


def vlb_term(
    schedule: Schedule,
    prediction: Prediction,
    *,
    x_0: Array,
    x_t: Array,
    t: Array,
    variance_type: VarianceType,
    levels: int,
) -> Array:
    """L_{t-1} of each image, and at step 0 L_0 = -log p(x_0 | x_1), in bits a dimension (Ho et al. 2020, eq. 5).

    x_0 and x_t are [b ...], t integers [b] in 0..T-1; levels are those of the data. Returns [b].
    """
    given = dict(x_0=x_0, x_t=x_t, variance_type=variance_type)
    first = reconstruction_nll(schedule, prediction, levels=levels, **given)
    later = transition_kl(schedule, prediction, t=jnp.maximum(t, 1), **given)
    return jnp.where(t == 0, first, later) / (x_0[0].size * jnp.log(2.0))


def hybrid_share(schedule: Schedule) -> float:
    """How much of ``vlb_term`` is in L_hybrid = L_simple + 0.001 L_vlb (Nichol & Dhariwal 2021, eq. 16).

    At a uniform t the sum over T terms is T times one, so it is T / 1000.
    """
    return 0.001 * schedule.num_train_timesteps


def mean_held(prediction: Prediction) -> Prediction:
    """The prediction, through whose variance alone a gradient goes: in L_hybrid the mean is L_simple's to train."""
    return Prediction(*jax.lax.stop_gradient(prediction[:2]), prediction.variance)
