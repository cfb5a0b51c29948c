"""The theory: arrays in, arrays out. Start with process.py, then prediction.py and loss.py."""

from marble.diffusion.bound import BoundTerms, bound_terms, rate_distortion
from marble.diffusion.continuous import ContinuousSchedule, cosine, edm, from_curve, rectified_flow
from marble.diffusion.continuous_bound import continuous_bound_terms
from marble.diffusion.decoder import discretised_gaussian_log_prob, tanh_discretised_gaussian_log_prob
from marble.diffusion.likelihood import gaussian_kl, prior_kl, reconstruction_nll, transition_kl
from marble.diffusion.loss import denoising_loss, hybrid_share, mean_held, vlb_term
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
    "BoundTerms",
    "ContinuousSchedule",
    "Gaussian",
    "NoiseSchedule",
    "PredictionType",
    "Schedule",
    "ancestral_step",
    "bound_terms",
    "constant",
    "continuous_bound_terms",
    "cosine",
    "denoiser",
    "denoising_loss",
    "discretised_gaussian_log_prob",
    "edm",
    "eps_from_x_0",
    "from_betas",
    "from_curve",
    "gaussian_kl",
    "hybrid_share",
    "jsd",
    "linear",
    "mean_held",
    "p_posterior",
    "predict",
    "prior_kl",
    "q_posterior",
    "q_sample",
    "q_step",
    "rate_distortion",
    "read",
    "reconstruction_nll",
    "rectified_flow",
    "rescale_zero_terminal_snr",
    "scaled_linear",
    "sigmoid",
    "squaredcos_cap_v2",
    "tanh_discretised_gaussian_log_prob",
    "transition_kl",
    "vlb_term",
    "warmup10",
    "warmup50",
    "x_0_from_eps",
]
