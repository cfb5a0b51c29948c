"""Small networks with random weights, each in a folder as diffusers or transformers has it: no PyTorch is needed."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import vocabularies

from marble.convert import autoencoder_kl, bert, clip, conditional_unet, ddpm, dit, taesd
from marble.convert.folder import write_part
from marble.convert.kinds import KINDS, kind_of, shapes_of
from marble.models import UNet
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.bert import Bert
from marble.models.clip import ClipText
from marble.models.conditional_unet import ConditionalUNet
from marble.models.dit import DiT
from marble.models.tiny_autoencoder import TinyAutoencoder

MAX_LENGTH = 12
"""Tokens of a prompt, with its start and end."""
SIDE = 8
"""Of the latents of Stable Diffusion; its images are of 2 * SIDE."""
LEVELS = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4)
WITH_TEXT = dict(**LEVELS, transformer_depth=(0, 1), num_heads=(2, 2), text_channels=12)
UNET = ConditionalUNet(**WITH_TEXT)
UNET_XL = UNET.clone(text_channels=24, pooled_channels=6)
PIXELS = UNet(**LEVELS, attention_resolutions=(4,), head_channels=4)
CLASSES = DiT(8, 2, 16, 2, 2, num_classes=3, grid_size=2, time_convention="mixed", perceptron_epsilon=1e-5)


class Network(NamedTuple):
    """A model of ours, and its config.json."""

    model: nn.Module
    config: dict[str, Any]

    @property
    def kind(self):
        return kind_of(self.config, "a small network")

    @property
    def table(self):
        return KINDS[self.kind].table(*self)

    def shapes(self):
        return shapes_of(*self, self.kind)


def unet():
    return Network(UNET, conditional_unet.config_of(UNET, sample_size=SIDE))


def unet_xl():
    return Network(UNET_XL, conditional_unet.config_of(UNET_XL, sample_size=SIDE, linear=True))


def inpainting_unet():
    model = UNET.clone(concat_channels=5)
    return Network(model, conditional_unet.config_of(model, sample_size=SIDE))


def pixels():
    return Network(PIXELS, ddpm.config_of(PIXELS, sample_size=8, in_channels=3))


def classes():
    return Network(CLASSES, dit.config_of(CLASSES, in_channels=4, sample_size=4))


def autoencoder(image_channels=3):
    """Half as many pixels a side, of 4 channels, times 0.5."""
    model = AutoencoderKL(image_channels, **LEVELS)
    return Network(model, autoencoder_kl.config_of(model, scale=0.5))


def tiny_autoencoder():
    model = TinyAutoencoder(channels=8, num_blocks=(1, 1), decoder_num_blocks=(1, 1))
    return Network(model, taesd.config_of(model))


def clip_text(projection=None):
    """Of the vocabulary that ``write_tokenizer`` writes."""
    vocab, _ = vocabularies.clip_bpe()
    sizes = dict(width=12, num_layers=2, num_heads=2, hidden=16, max_length=MAX_LENGTH, projection=projection)
    model = ClipText(vocab_size=len(vocab), eos_token_id=vocab[vocabularies.END], **sizes)
    return Network(model, clip.config_of(model))


def bert_text():
    """Of the vocabulary that ``vocabularies.write_bert`` writes."""
    sizes = dict(width=12, num_layers=2, num_heads=2, hidden=16, max_length=MAX_LENGTH)
    model = Bert(vocab_size=len(vocabularies.bert_vocab()), **sizes)
    return Network(model, bert.config_of(model))


def random_params(shapes, seed=0):
    """Random parameters that keep numbers at about their size, with nothing at zero; made on the host."""
    rng = np.random.default_rng(seed)

    def made(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return noise / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return noise * np.float32(0.1) + np.float32(path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(made, shapes)


def write(folder, network, *, seed=0, dtype=None):
    """The network's folder, with random weights."""
    write_part(folder, network.config, network.table, random_params(network.shapes(), seed), dtype=dtype)
    return folder


def write_tokenizer(folder):
    """CLIP's, as Stable Diffusion 1 has it."""
    return vocabularies.write_clip(folder, **vocabularies.of_stable_diffusion(1))
