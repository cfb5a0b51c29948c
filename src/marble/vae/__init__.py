"""The theory of the variational autoencoder: arrays in, arrays out. bound.py first, then likelihoods.py."""

from marble.vae.bound import Encoding, decoder_input, elbo, importance_weighted, log_weight, prior_kl
from marble.vae.likelihoods import (
    DISCRETISED_LOGISTIC,
    GAUSSIAN,
    Likelihood,
    dequantised_gaussian_log_prob,
    discretised_logistic_log_prob,
    gaussian_log_density,
)

__all__ = [
    "DISCRETISED_LOGISTIC",
    "GAUSSIAN",
    "Encoding",
    "Likelihood",
    "decoder_input",
    "dequantised_gaussian_log_prob",
    "discretised_logistic_log_prob",
    "elbo",
    "gaussian_log_density",
    "importance_weighted",
    "log_weight",
    "prior_kl",
]
