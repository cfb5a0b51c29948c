"""From noise to images. Start with sampler.py, the protocol and the one loop; then ancestral.py and guidance.py."""

from marble.sampling import guidance
from marble.sampling.ancestral import Ancestral
from marble.sampling.editing import FromImage, Inpainting
from marble.sampling.grid import levels, timesteps
from marble.sampling.sampler import Frames, Sampler, Step, image_keys, noise_like, sample

__all__ = [
    "Ancestral",
    "Frames",
    "FromImage",
    "Inpainting",
    "Sampler",
    "Step",
    "guidance",
    "image_keys",
    "levels",
    "noise_like",
    "sample",
    "timesteps",
]
