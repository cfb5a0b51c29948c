"""Fashion-MNIST: pictures of clothes, 28x28 pixels, with the model and the recipe of configs/mnist.py.

Paper      Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, at a smaller size
Data       marble data prepare fashion_mnist
Command    marble train --config configs/fashion_mnist.py --workdir runs/fashion_mnist
Hardware   one GPU
Expected   no published figure for this size
Variants   :conditional gives the model the class; :smoke is two steps of a tiny model
"""

from ml_collections import ConfigDict

from marble.configs import mnist


def get_config(variant: str | None = None) -> ConfigDict:
    """The config, or a variant of it."""
    config = mnist.get_config(variant)
    config.data.name = "fashion_mnist"
    return config
