"""Autoencoders from their folders."""

from typing import Any

import flax.linen as nn
import numpy as np

from marble.convert import autoencoder_kl, taesd
from marble.convert.folder import open_part
from marble.convert.unread import frozen_params
from marble.errors import InputError
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.tiny_autoencoder import TinyAutoencoder


def open_autoencoder(folder: str, *, dtype: Any = np.float32) -> tuple[nn.Module, Any, float]:
    """(model, params, scale) of an autoencoder; InputError where the folder holds another network.

    dtype is what the network computes in, and what its parameters are held in, for they are not trained.
    """
    part = open_part(folder, dtype=dtype)
    if isinstance(part.model, AutoencoderKL):
        return part.model, frozen_params(part, dtype), autoencoder_kl.scale_of(part.config)
    if isinstance(part.model, TinyAutoencoder):
        return part.model, frozen_params(part, dtype), taesd.scale_of(part.config)
    raise InputError(f"{folder} holds a {part.kind}, which is no autoencoder: give a folder such as a checkpoint's vae")
