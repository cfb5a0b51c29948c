"""CLIP beside transformers': the same states of the same weights, there and back, each other's files and configs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.clip_pair import (
    BLOCK,
    NAMES,
    TEXT,
    TOKENS,
    VISION,
    arrays_of,
    assert_close,
    drawn,
    inputs_of,
    ours,
    theirs_of,
    whole_of_theirs,
)

from marble.convert import clip as table_of_clip
from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models.clip import Clip, ClipText, ClipVision

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.parity

MASK = np.asarray([[1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1]], np.int32)
WITHIN = [(jnp.float32, 1e-4), (jnp.bfloat16, 3e-2)]
"""Relative to the largest. An embedding of 10 numbers sums what 24 rounded ones leave of each other: PyTorch's own
bfloat16 is up to 2.5e-2 from its float32 on weights drawn like these, and 1e-2 on average."""


def images_of(config, count=2):
    return (
        np.random.default_rng(0).normal(size=(count, config["image_size"], config["image_size"], 3)).astype("float32")
    )


def as_theirs(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("dtype, within", WITHIN, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("has_mask", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(
    "config, std",
    [
        (TEXT, 0.15),
        ({**TEXT, "hidden_act": "gelu", "layer_norm_eps": 1e-3}, 0.15),
        ({**TEXT, "eos_token_id": 2}, 0.15),
        ({**TEXT, "eos_token_id": 3, "hidden_act": "gelu_fast"}, 0.15),
        ({**TEXT, **BLOCK, "hidden_act": "gelu"}, 0.05),
    ],
    ids=["quick_gelu", "gelu", "end 2", "end 3", "a full-size block"],
)
def test_texts(config, std, has_mask, dtype, within):
    theirs = drawn(transformers.CLIPTextModelWithProjection, transformers.CLIPTextConfig(**config), std=std)
    model, params = ours(theirs, dtype=dtype)
    mask = MASK if has_mask else None
    asked = dict(input_ids=torch.from_numpy(TOKENS).long())
    asked |= dict(attention_mask=torch.from_numpy(MASK)) if has_mask else {}
    with torch.no_grad():
        whole = theirs(**asked, output_hidden_states=True)
        pooled = theirs.text_model(**asked).pooler_output
    found = jax.jit(model.apply)(params, TOKENS, mask)
    assert_close(found.last, whole.last_hidden_state, within)
    assert_close(found.penultimate, whole.hidden_states[-2], within)
    assert_close(found.pooled, pooled, within)
    assert_close(found.embedding, whole.text_embeds, within)


@pytest.mark.parametrize("dtype, within", WITHIN, ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config, std",
    [(VISION, 0.15), ({**VISION, "hidden_act": "gelu", "patch_size": 5}, 0.15), ({**VISION, **BLOCK}, 0.05)],
    ids=["quick_gelu", "gelu", "a full-size block"],
)
def test_images(config, std, dtype, within):
    theirs = drawn(transformers.CLIPVisionModelWithProjection, transformers.CLIPVisionConfig(**config), std=std)
    model, params = ours(theirs, dtype=dtype)
    images = images_of(config)
    with torch.no_grad():
        whole = theirs(pixel_values=as_theirs(images))
        pooled = theirs.vision_model(pixel_values=as_theirs(images)).pooler_output
    found = jax.jit(model.apply)(params, images)
    assert_close(found.last, whole.last_hidden_state, within)
    assert_close(found.pooled, pooled, within)
    assert_close(found.embedding, whole.image_embeds, within)


@pytest.mark.parametrize("dtype, within", WITHIN, ids=["float32", "bfloat16"])
def test_texts_against_images(dtype, within):
    theirs, images = whole_of_theirs(), images_of(VISION, 3)
    model, params = ours(theirs, dtype=dtype)
    with torch.no_grad():
        whole = theirs(
            input_ids=torch.from_numpy(TOKENS).long(),
            pixel_values=as_theirs(images),
            attention_mask=torch.from_numpy(MASK),
        )
    assert_close(model.apply(params, TOKENS, MASK, method="encode_text"), whole.text_embeds, within)
    assert_close(model.apply(params, images, method="encode_image"), whole.image_embeds, within)
    # Cosines of vectors that are all but at right angles are known as well as the vectors are, and no better.
    scale = theirs.logit_scale.exp().item()
    found = model.apply(params, TOKENS, images, MASK)
    np.testing.assert_allclose(found, whole.logits_per_image.numpy(), rtol=0, atol=within * scale)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_nothing_changes(name):
    theirs = theirs_of(name)
    model, params = ours(theirs)
    back = dict(tensors_of(table_of_clip.table(model), params["params"]))
    expected = table_of_clip.as_now(held(arrays_of(theirs)))
    assert set(back) == set(expected)
    for key, tensor in expected.items():
        assert back[key].shape == tensor.shape
        np.testing.assert_array_equal(back[key], tensor.read())


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_saves_is_read(name, tmp_path):
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path)
    model = table_of_clip.model_of(json.loads((tmp_path / "config.json").read_text()))
    stored = table_of_clip.as_now(held(safetensors_numpy.load_file(tmp_path / "model.safetensors")))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs_of(model))["params"]
    read = params_of(table_of_clip.table(model), stored, shapes)
    jax.tree.map(np.testing.assert_array_equal, read, ours(theirs)[1]["params"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_transformers_loads(name, tmp_path):
    theirs = theirs_of(name)
    model, params = ours(theirs)
    (tmp_path / "config.json").write_text(json.dumps(table_of_clip.config_of(model)))
    arrays = dict(tensors_of(table_of_clip.table(model), params["params"]))
    safetensors_numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, told = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    for (key, one), other in zip(loaded.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


@pytest.mark.parametrize(
    "model",
    [
        ClipText(),
        ClipText(width=64, num_heads=4, hidden=100, activation="gelu_new", projection=32, eos_token_id=2, epsilon=1e-6),
        ClipVision(projection=512),
        ClipVision(image_size=32, patch_size=8, hidden=7, activation="silu"),
        Clip(ClipText(projection=5), ClipVision(projection=5, num_layers=3)),
    ],
)
def test_a_network_s_config_is_its_own(model):
    full = Clip(*map(with_hidden, (model.text, model.vision))) if isinstance(model, Clip) else with_hidden(model)
    config = table_of_clip.config_of(model)
    assert table_of_clip.model_of(config) == full
    theirs = {Clip: "CLIPConfig", ClipText: "CLIPTextConfig", ClipVision: "CLIPVisionConfig"}[type(model)]
    as_they_write_it = getattr(transformers, theirs)(**config).to_dict()
    assert table_of_clip.model_of(as_they_write_it, architecture=config["architectures"][0]) == full


def with_hidden(half):
    return half.clone(hidden=half.hidden or 4 * half.width)


def test_defaults_are_transformers():
    for name, cls in [("CLIPTextModelWithProjection", "CLIPTextConfig"), ("CLIPVisionModel", "CLIPVisionConfig")]:
        config = getattr(transformers, cls)().to_dict()
        assert table_of_clip.model_of({}, architecture=name) == table_of_clip.model_of(config, architecture=name)
    old = {
        "text_config_dict": {"hidden_size": 768},
        "text_config": {"vocab_size": 7},
        "vision_config": {"patch_size": 14},
    }
    ours = table_of_clip.model_of({"model_type": "clip", **old})  # before theirs, which changes what it is given
    assert ours == table_of_clip.model_of(transformers.CLIPConfig(**old).to_dict())
    assert (ours.text.width, ours.text.vocab_size, ours.vision.patch_size) == (768, 49408, 14)


def test_files_with_position_ids_are_read():
    theirs = theirs_of("CLIPModel")
    ids = {name: np.arange(9)[None] for name in table_of_clip.NOT_READ}
    tensors = table_of_clip.as_now(held(arrays_of(theirs) | ids))
    assert set(tensors) == set(arrays_of(theirs))


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"architectures": ["CLIPTextModel"], "hidden_act": "mish"},
            "hidden_act='mish' is not supported: it can be quick_g",
        ),
        (
            {"architectures": ["CLIPTextModel"], "eos_token_id": [1, 2]},
            r"eos_token_id=\[1, 2\] is not supported: it must be a",
        ),
        ({"architectures": ["CLIPVisionModel"], "num_channels": 4}, "num_channels=4 is not supported: what is, is 3"),
        (
            {"architectures": ["CLIPVisionModel"], "image_size": [8, 9]},
            r"'image_size': \[8, 9\]} are not supported: .* squares",
        ),
        (
            {"architectures": ["CLIPForImageClassification"]},
            "'CLIPForImageClassification' is not supported: it can be CLIPM",
        ),
        ({"model_type": "clip_text_model"}, "architectures=None must name one class: give architecture"),
    ],
)
def test_what_is_not_supported_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        table_of_clip.model_of(config)
