"""TAESD's published weights, of the folder that MARBLE_TAESD names: its two safetensors files."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from marble.convert import files, taesd
from marble.convert.names import params_of
from marble.models import TinyAutoencoder

FOLDER = os.environ.get("MARBLE_TAESD")
pytestmark = pytest.mark.skipif(not FOLDER, reason="MARBLE_TAESD names no folder with TAESD's two files")


def opened():
    halves = {half: files.read(Path(FOLDER) / f"taesd_{half}.safetensors") for half in ("encoder", "decoder")}
    tensors = taesd.as_now({f"{half}.{name}": t for half, found in halves.items() for name, t in found.items()})
    model = TinyAutoencoder()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    return model, params_of(taesd.table(model), tensors, shapes), tensors


def photos():
    """The two of scikit-learn, their middle squares at 256 x 256, float32 in [-1, 1]."""
    squares = [Image.fromarray(photo[:, 106:533]) for photo in load_sample_images().images]  # of 427 x 640
    pixels = np.stack([np.asarray(square.resize((256, 256), Image.Resampling.LANCZOS)) for square in squares])
    return pixels.astype(np.float32) / 127.5 - 1


def test_photos_come_back_at_20_decibels():
    model, params, _ = opened()
    images = photos()
    latents = model.apply({"params": params}, images, method="encode")
    assert latents.shape == (2, 32, 32, 4)
    back = np.clip(model.apply({"params": params}, latents, method="decode"), -1, 1)
    decibels = 10 * np.log10(4 / np.square(back - images).mean(axis=(1, 2, 3)))
    assert (decibels >= 20).all(), decibels


@pytest.mark.parity
def test_latents_and_photos_are_those_of_diffusers():
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    model, params, tensors = opened()
    theirs = diffusers.AutoencoderTiny().eval()
    theirs.load_state_dict({name: torch.tensor(np.asarray(t.read(), np.float32)) for name, t in tensors.items()})
    images = photos()
    with torch.no_grad():
        expected = theirs.encode(torch.tensor(images.transpose(0, 3, 1, 2))).latents
        decoded = theirs.decode(expected).sample.numpy().transpose(0, 2, 3, 1)
    latents = model.apply({"params": params}, images, method="encode")
    np.testing.assert_allclose(latents, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(model.apply({"params": params}, latents, method="decode"), decoded, atol=1e-4)
