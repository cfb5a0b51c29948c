"""DDIM: the sampler between the ODE and the ancestral one (Song, Meng & Ermon 2021)."""

from typing import NamedTuple

import jax.numpy as jnp

from marble.diffusion.process import fresh_noise_share
from marble.sampling.sampler import Number, Step, check_between, noise_like
from marble.typing import Array, DenoiseFn, Level, Prediction, coefficient_like


def ddim_step(
    prediction: Prediction, *, level_t: Level, level_s: Level, noise: Array | None = None, eta: Number = 0.0
) -> Array:
    """x_s = alpha_s x_0 + sqrt(sigma_s² - std²) eps + std noise, std² = eta² sigma_s² (1 - SNR_t / SNR_s).

    Song, Meng & Ermon 2021, eq. 12 and 16, for any alpha and sigma. eta 0 draws nothing (noise may be None) and
    follows the ODE; eta 1 draws as the ancestral sampler does with the variance fixed_small.
    """
    like = lambda coefficient: coefficient_like(coefficient, prediction.x_0)  # noqa: E731
    image = like(level_s.alpha) * prediction.x_0
    if noise is None:
        return image + like(level_s.sigma) * prediction.eps
    fresh = fresh_noise_share(level_t, level_s)
    # 1 - eta² fresh, formed so that it doesn't cancel where nearly all the noise is fresh.
    old = level_s.sigma * jnp.sqrt((1 - eta) * (1 + eta) + eta**2 * jnp.exp(level_t.log_snr - level_s.log_snr))
    drawn = eta * level_s.sigma * jnp.sqrt(fresh)
    return image + like(old) * prediction.eps + like(drawn) * noise


def step_along(eps: Array, prediction: Prediction, *, level_t: Level, level_s: Level) -> Array:
    """x_s = alpha_s (x_t / alpha_t + (rho_s - rho_t) eps), rho = sigma / alpha: the ODE's step along any eps.

    Formed as the step along the prediction's own eps, which doesn't cancel, and the difference. Needs alpha_t > 0.
    """
    change = level_s.sigma - level_s.alpha * level_t.sigma / level_t.alpha
    own = ddim_step(prediction, level_t=level_t, level_s=level_s)
    return own + coefficient_like(change, eps) * (eps - prediction.eps)


class DDIM(NamedTuple):
    """x_0 and eps put together again at the lower level, a share eta of the noise drawn anew. Order 1."""

    eta: Number = 0.0
    """0 is the deterministic sampler, 1 the ancestral one."""

    def init(self, x: Array, num_steps: int | Array) -> tuple[()]:
        check_between("eta", self.eta, 0, 1)
        return ()

    def step(
        self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: tuple[()], keys: Array
    ) -> Step:
        prediction = denoise_fn(x, level_t)
        x_s = ddim_step(prediction, level_t=level_t, level_s=level_s, noise=noise_like(keys, x), eta=self.eta)
        return Step(x_s, prediction.x_0, carry)
