"""LSUN church at 256x256, unconditional: the DDPM paper's recipe, 113,673,219 parameters.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, appendix B
Data       a folder of the 126,227 images, named with --config.data.source=DIR
Command    marble train --config configs/lsun_church256.py --workdir runs/lsun_church256 --config.data.source=DIR
Hardware   the paper: a TPU v3-8, 2.2 steps a second, 152 hours; on smaller machines set training.accumulate
Expected   the paper: FID 7.89 after 1,200,000 steps
Variants   :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import celebahq256


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = celebahq256.get_config(variant)
    if variant is None:
        config.training.num_steps = 1_200_000
    return config
