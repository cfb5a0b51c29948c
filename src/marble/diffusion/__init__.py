"""The theory: arrays in, arrays out. Start with process.py, then prediction.py and loss.py."""

from marble.diffusion.continuous import ContinuousSchedule, cosine, edm, from_curve, rectified_flow
from marble.diffusion.decoder import discretised_gaussian_log_prob, tanh_discretised_gaussian_log_prob
from marble.diffusion.likelihood import gaussian_kl, prior_kl, transition_kl
from marble.diffusion.loss import eps_loss
from marble.diffusion.prediction import PredictionType, denoiser, eps_from_x_0, predict, read, x_0_from_eps
from marble.diffusion.process import Gaussian, ancestral_step, p_posterior, q_posterior, q_sample, q_step
from marble.diffusion.schedules import (
    NoiseSchedule,
    Schedule,
    constant,
    from_betas,
    jsd,
    linear,
    rescale_zero_terminal_snr,
    scaled_linear,
    sigmoid,
    squaredcos_cap_v2,
    warmup10,
    warmup50,
)

__all__ = [
    "ContinuousSchedule",
    "Gaussian",
    "NoiseSchedule",
    "PredictionType",
    "Schedule",
    "ancestral_step",
    "constant",
    "cosine",
    "denoiser",
    "discretised_gaussian_log_prob",
    "edm",
    "eps_from_x_0",
    "eps_loss",
    "from_betas",
    "from_curve",
    "gaussian_kl",
    "jsd",
    "linear",
    "p_posterior",
    "predict",
    "prior_kl",
    "q_posterior",
    "q_sample",
    "q_step",
    "read",
    "rectified_flow",
    "rescale_zero_terminal_snr",
    "scaled_linear",
    "sigmoid",
    "squaredcos_cap_v2",
    "tanh_discretised_gaussian_log_prob",
    "transition_kl",
    "warmup10",
    "warmup50",
    "x_0_from_eps",
]
