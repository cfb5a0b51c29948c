"""The published models of iDDPM and ADM: what is in each file, and the process that it was trained for."""

from collections.abc import Sequence
from typing import NamedTuple

from marble.models.adm import AdmClassifier, AdmUNet


class Published(NamedTuple):
    """One published architecture, and the process that it was trained for."""

    files: Sequence[str]
    """The files that hold it."""
    model: AdmUNet | AdmClassifier
    image_size: int
    """The sides of x_t."""
    beta_schedule: str = "linear"
    """linear is DDPM's 1e-4 to 0.02, times 1000 / num_train_timesteps."""
    num_train_timesteps: int = 1000
    time_scale: float = 1.0
    """The network is given the step times this."""


SIDES_64, SIDES_128, SIDES_256, SIDES_512 = (1, 2, 3, 4), (1, 1, 2, 3, 4), (1, 1, 2, 2, 4, 4), (0.5, 1, 1, 2, 2, 4, 4)
"""The channel_mult of images of these sides."""

IDDPM_64 = AdmUNet(channels=128, channel_mult=SIDES_64, num_res_blocks=3, num_heads=4, out_channels=6)
IDDPM_256 = IDDPM_64.clone(channel_mult=SIDES_256, num_res_blocks=2)
ADM_256 = AdmUNet(
    channels=256,
    channel_mult=SIDES_256,
    num_res_blocks=2,
    attention_resolutions=(32, 16, 8),
    head_channels=64,
    resblock_updown=True,
    out_channels=6,
)
ADM_LABELS = ADM_256.clone(num_classes=1000)
ADM_64 = ADM_LABELS.clone(channels=192, channel_mult=SIDES_64, num_res_blocks=3, heads_first=False)
ADM_128 = ADM_LABELS.clone(channel_mult=SIDES_128, num_heads=4, head_channels=None)
ADM_UPSAMPLER = ADM_LABELS.clone(channels=192, reads_low_res=True)

PUBLISHED: Sequence[Published] = (
    Published(
        files=("cifar10_uncond_50M_500K.pt", "cifar10_uncond_vlb_50M_500K.pt"),
        model=IDDPM_64.clone(channel_mult=(1, 2, 2, 2)),
        image_size=32,
        beta_schedule="cosine",
        num_train_timesteps=4000,
        time_scale=0.25,
    ),
    Published(
        files=("imagenet64_uncond_100M_1500K.pt", "imagenet64_uncond_vlb_100M_1500K.pt"),
        model=IDDPM_64,
        image_size=64,
        beta_schedule="cosine",
        num_train_timesteps=4000,
        time_scale=0.25,
    ),
    Published(
        files=("imagenet64_cond_270M_250K.pt",),
        model=IDDPM_64.clone(channels=192, num_classes=1000),
        image_size=64,
        beta_schedule="cosine",
        num_train_timesteps=4000,
    ),
    Published(
        files=("lsun_uncond_100M_1200K_bs128.pt", "lsun_uncond_100M_2400K_bs64.pt"),
        model=IDDPM_256.clone(attention_resolutions=(16,), num_heads=1, scale_shift_norm=False),
        image_size=256,
    ),
    Published(
        files=("upsample_cond_500K.pt",),
        model=IDDPM_256.clone(channels=192, num_classes=1000, reads_low_res=True),
        image_size=256,
        num_train_timesteps=4000,
    ),
    Published(("64x64_diffusion.pt",), ADM_64, 64, "cosine"),
    Published(("128x128_diffusion.pt",), ADM_128, 128),
    Published(("256x256_diffusion.pt",), ADM_LABELS, 256),
    Published(
        files=(
            *("256x256_diffusion_uncond.pt", "lsun_bedroom.pt", "lsun_cat.pt"),
            *("lsun_horse.pt", "lsun_horse_nodropout.pt"),
        ),
        model=ADM_256,
        image_size=256,
    ),
    Published(("512x512_diffusion.pt",), ADM_LABELS.clone(channel_mult=SIDES_512), 512),
    Published(("64_256_upsampler.pt",), ADM_UPSAMPLER.clone(num_heads=4, head_channels=None), 256),
    Published(("128_512_upsampler.pt",), ADM_UPSAMPLER.clone(attention_resolutions=(32, 16)), 512),
    Published(("64x64_classifier.pt",), AdmClassifier(channel_mult=SIDES_64, num_res_blocks=4), 64, "cosine"),
    Published(("128x128_classifier.pt",), AdmClassifier(channel_mult=SIDES_128), 128),
    Published(("256x256_classifier.pt",), AdmClassifier(channel_mult=SIDES_256), 256),
    Published(("512x512_classifier.pt",), AdmClassifier(channel_mult=SIDES_512), 512),
)
"""From the READMEs and the defaults of openai/improved-diffusion and openai/guided-diffusion."""
