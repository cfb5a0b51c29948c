"""Networks: flax.linen modules that know no noise schedule."""

from marble.models import lora
from marble.models.adm import AdmClassifier, AdmUNet
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.bert import Bert
from marble.models.clip import Clip, ClipText, ClipVision
from marble.models.conditional_unet import ConditionalUNet
from marble.models.dinov2 import DinoV2
from marble.models.dit import DiT
from marble.models.efficientnet import EfficientNetLite
from marble.models.inception import Inception
from marble.models.log_snr import LearnedLinear, LearnedMonotone
from marble.models.patch_discriminator import PatchDiscriminator
from marble.models.tiny_autoencoder import TinyAutoencoder
from marble.models.unet import UNet
from marble.models.vae import VAE

__all__ = [
    "VAE",
    "AdmClassifier",
    "AdmUNet",
    "AutoencoderKL",
    "Bert",
    "Clip",
    "ClipText",
    "ClipVision",
    "ConditionalUNet",
    "DiT",
    "DinoV2",
    "EfficientNetLite",
    "Inception",
    "LearnedLinear",
    "LearnedMonotone",
    "PatchDiscriminator",
    "TinyAutoencoder",
    "UNet",
    "lora",
]
