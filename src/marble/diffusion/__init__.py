"""The theory: arrays in, arrays out. Start with process.py, then prediction.py and loss.py."""

from marble.diffusion.likelihood import gaussian_kl, prior_kl, transition_kl
from marble.diffusion.loss import eps_loss
from marble.diffusion.prediction import denoiser, eps_from_x_0, x_0_from_eps
from marble.diffusion.process import Gaussian, ancestral_step, p_posterior, q_posterior, q_sample, q_step
from marble.diffusion.schedules import Schedule, from_betas, linear

__all__ = [
    "Gaussian",
    "Schedule",
    "ancestral_step",
    "denoiser",
    "eps_from_x_0",
    "eps_loss",
    "from_betas",
    "gaussian_kl",
    "linear",
    "p_posterior",
    "prior_kl",
    "q_posterior",
    "q_sample",
    "q_step",
    "transition_kl",
    "x_0_from_eps",
]
