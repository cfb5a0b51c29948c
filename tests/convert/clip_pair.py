"""CLIP's networks of transformers, and ours with the same weights; importing it skips a test without transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert import clip as table_of_clip
from marble.convert.names import params_of
from marble.convert.tensors import held
from marble.models.clip import Clip, ClipText, ClipVision

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = dict(hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2, projection_dim=10)
TEXT = dict(SMALL, vocab_size=30, max_position_embeddings=9, eos_token_id=29, bos_token_id=28)
VISION = dict(SMALL, image_size=13, patch_size=4)
BLOCK = dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096, num_hidden_layers=1, projection_dim=768)
TOKENS = np.asarray([[28, 5, 29, 29, 7, 2, 3], [28, 2, 2, 3, 4, 5, 29]], np.int32)


def drawn(cls, config, seed=0, std=0.15):
    """A network of theirs in which every number counts, its norms' scales about 1."""
    torch.manual_seed(seed)
    model = cls(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "logit_scale"))
            parameter.copy_(is_scale + std * torch.randn(parameter.shape))
    return model


def arrays_of(model):
    return {name: parameter.detach().numpy() for name, parameter in model.state_dict().items()}


def inputs_of(model):
    tokens = jnp.zeros((1, 3), jnp.int32)
    vision = getattr(model, "vision", model)
    images = jnp.zeros((1, vision.image_size, vision.image_size, 3)) if isinstance(vision, ClipVision) else None
    return {Clip: [tokens, images], ClipText: [tokens], ClipVision: [images]}[type(model)]


def ours(theirs, **options):
    """Our network, made of their config, and its parameters, of their arrays."""
    config = {**theirs.config.to_dict(), "architectures": [type(theirs).__name__]}
    model = table_of_clip.model_of(config, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs_of(model))["params"]
    tensors = table_of_clip.as_now(held(arrays_of(theirs)))
    return model, {"params": params_of(table_of_clip.table(model), tensors, shapes)}


def assert_close(found, expected, within):
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=within * np.abs(expected).max())


def whole_of_theirs(**options):
    config = transformers.CLIPConfig(text_config=TEXT, vision_config={**VISION, "hidden_size": 36}, projection_dim=12)
    return drawn(transformers.CLIPModel, config, **options)


def theirs_of(name):
    if name == "CLIPModel":
        return whole_of_theirs()
    kind, config = ("Text", TEXT) if "Text" in name else ("Vision", VISION)
    return drawn(getattr(transformers, name), getattr(transformers, f"CLIP{kind}Config")(**config))


NAMES = [
    *("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "CLIPModel",
]
