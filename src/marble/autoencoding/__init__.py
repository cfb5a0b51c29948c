"""What the autoencoder of latent diffusion is trained by: arrays in, arrays out."""

from marble.autoencoding.adversarial import DISCRIMINATOR_LOSSES, adaptive_weight, generator_loss, hinge, likelihood
from marble.autoencoding.reconstruction import PIXEL_LOSSES, absolute, perceptual, squared

__all__ = [
    "DISCRIMINATOR_LOSSES",
    "PIXEL_LOSSES",
    "absolute",
    "adaptive_weight",
    "generator_loss",
    "hinge",
    "likelihood",
    "perceptual",
    "squared",
]
