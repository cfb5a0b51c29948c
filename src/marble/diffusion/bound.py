"""The variational bound on -log p(x_0), all its terms at once (Ho et al. 2020, eq. 5), and what they show.

Noise is given as a function of the step, so that the caller decides what it depends on, and a test can give
quadrature nodes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marble.diffusion.decoder import discretised_gaussian_log_prob
from marble.diffusion.likelihood import Decoder, mean_of_image, prior_kl, reconstruction_nll, transition_kl
from marble.diffusion.process import VarianceType, q_sample
from marble.diffusion.schedules import Schedule
from marble.typing import Array, Context, DenoiseFn

NoiseFn = Callable[[Array], Array]
"""noise(step) -> N(0, I) [b ...], for the step's number, an integer that may be traced."""


class BoundTerms(NamedTuple):
    """The bound of each image in nats, term by term, and how well x_0 was seen at each step."""

    prior: Array
    """L_T [b]."""
    by_step: Array
    """[T b]: row 0 is L_0, the decoder's; row t is L_{t-1}, of the step from t to t - 1."""
    squared_error: Array
    """[T b]: the mean over an image of (x_0 - x^_0)², x^_0 predicted from x_t."""

    @property
    def total(self) -> Array:
        """The bound on -log p(x_0) [b]."""
        return self.prior + self.by_step.sum(0)


def bound_terms(
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    *,
    x_0: Array,
    noise: NoiseFn,
    levels: int,
    variance_type: VarianceType = "fixed_small",
    decoder: Decoder = discretised_gaussian_log_prob,
    context: Context | None = None,
) -> BoundTerms:
    """-log p(x_0) <= L_T + sum_t L_{t-1} + L_0 (Ho et al. 2020, eq. 5), each term with one draw of x_t.

    x_0 [b ...] has this number of levels. denoise_fn is asked once at each of the T steps, in a compiled loop.
    """
    given = dict(x_0=x_0, variance_type=variance_type)

    def at(t: Array) -> tuple[Array, Array]:
        x_t = q_sample(schedule, x_0, t, noise(t))
        prediction = denoise_fn(x_t, schedule.level(t), context)
        term = jax.lax.cond(
            t == 0,
            lambda: reconstruction_nll(schedule, prediction, x_t=x_t, levels=levels, decoder=decoder, **given),
            lambda: transition_kl(schedule, prediction, x_t=x_t, t=t, **given),
        )
        return term, mean_of_image(jnp.square(x_0 - prediction.x_0))

    by_step, squared_error = jax.lax.map(at, jnp.arange(schedule.num_train_timesteps))
    return BoundTerms(prior_kl(schedule, x_0), by_step, squared_error)


def rate_distortion(terms: BoundTerms) -> tuple[Array, Array]:
    """(rate, distortion), each [T b]: what it costs to tell x_t, and the error of what it shows (Ho, section 4.3).

    The rate at t is L_T and all L_{t'-1} with t' > t, in nats an image; the distortion is the mean square error of
    the x_0 that is predicted from x_t. The rate of row 0 is all of the bound but L_0.
    """
    after = jnp.cumsum(terms.by_step[:0:-1], axis=0)[::-1]
    return terms.prior[None] + jnp.concatenate([after, jnp.zeros_like(after[:1])]), terms.squared_error
