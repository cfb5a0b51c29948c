"""The numbers of parameters that the papers' own code has, counted without making any."""

import math

import jax
import jax.numpy as jnp
import pytest

from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.conditional_unet import ConditionalUNet
from marble.models.tiny_autoencoder import TinyAutoencoder


def count(model, *inputs):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("model", "context", "expected"),
    [
        (ConditionalUNet(), {"text": (77, 768)}, 859_520_964),
        (ConditionalUNet(concat_channels=5), {"text": (77, 768), "concat": (8, 8, 5)}, 859_535_364),
        (ConditionalUNet(num_heads=(5, 10, 20, 20), text_channels=1024), {"text": (77, 1024)}, 865_910_724),
        (
            ConditionalUNet(
                channel_mult=(1, 2, 4),
                transformer_depth=(0, 2, 10),
                middle_depth=10,
                num_heads=(5, 10, 20),
                text_channels=2048,
                pooled_channels=1280,
            ),
            {"text": (77, 2048), "pooled_text": (1280,), "size": (6,)},
            2_567_463_684,
        ),
    ],
    ids=["sd1", "sd1 inpainting", "sd2", "sdxl"],
)
def test_stable_diffusions_unets(model, context, expected):
    context = {name: jnp.zeros((1, *shape)) for name, shape in context.items()}
    assert count(model, jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), context) == expected


def test_autoencoders():
    assert count(AutoencoderKL(), jnp.zeros((1, 8, 8, 3))) == 83_653_863
    assert count(TinyAutoencoder(), jnp.zeros((1, 8, 8, 3))) == 1_222_532 + 1_222_531
