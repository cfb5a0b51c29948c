"""Networks: flax.linen modules that know no noise schedule."""

from marble.models.log_snr import LearnedLinear, LearnedMonotone
from marble.models.unet import UNet
from marble.models.vae import VAE

__all__ = ["VAE", "LearnedLinear", "LearnedMonotone", "UNet"]
