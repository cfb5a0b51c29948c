"""FID's Inception, EfficientNet-Lite0 and DINOv2 in their files: names as published, there and back, and refusals."""

import functools

import jax
import numpy as np
import pytest
from torch_files import write_legacy, write_zip

from marble.convert import dinov2, efficientnet, folder, inception
from marble.convert.names import flat, params_of, tensors_of
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models import DinoV2, EfficientNetLite, Inception
from marble.models.efficientnet import Stage

SMALL_DINO = DinoV2(image_size=12, patch_size=4, width=128, num_layers=2, num_heads=2)
SMALL_LITE = EfficientNetLite((Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 6, 8)), stem=4, head=10, num_classes=3)


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "convert, model",
    [(efficientnet, SMALL_LITE), (dinov2, SMALL_DINO)],
    ids=["efficientnet", "dinov2"],
)
def test_there_and_back_nothing_changes(convert, model):
    shapes = convert.shapes_of(model)
    params = drawn(shapes)
    arrays = dict(tensors_of(convert.table(model), params))
    assert len(arrays) == len(flat(params))
    same(params_of(convert.table(model), convert.as_now(held(arrays)), shapes), params)


@functools.cache
def inception_arrays():
    model = Inception()
    params = drawn(inception.shapes_of(model))
    arrays = dict(tensors_of(inception.table(model), params))
    counters = [name.replace("running_mean", "num_batches_tracked") for name in arrays if name.endswith("running_mean")]
    return params, arrays | {name: np.zeros((), np.int64) for name in counters}


def test_inception_s_names_are_those_of_pytorch_s_libraries():
    _, arrays = inception_arrays()
    assert len(arrays) == 94 * 6 + 2  # convolutions, each with a norm of five, and the last layer
    expected = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6e.branch7x7dbl_5.bn.num_batches_tracked": (),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }
    assert {name: arrays[name].shape for name in expected} == expected


def test_inception_is_read_from_a_checkpoint(tmp_path):
    params, arrays = inception_arrays()
    same(inception.open_inception(write_zip(tmp_path / "inception.pth", arrays))[1], params)


def test_efficientnet_s_names_are_those_of_the_package(tmp_path):
    model = EfficientNetLite()
    params = drawn(efficientnet.shapes_of(model))
    arrays = dict(tensors_of(efficientnet.table(model), params))
    expected = {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_bn0.running_mean": (32,),
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.0._bn1.weight": (32,),
        "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
        "_blocks.1._bn0.bias": (96,),
        "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
        "_blocks.15._bn2.running_var": (320,),
        "_conv_head.weight": (1280, 320, 1, 1),
        "_fc.weight": (1000, 1280),
    }
    assert {name: arrays[name].shape for name in expected} == expected
    assert not [name for name in arrays if name.startswith("_blocks.0._expand")]
    path = write_legacy(tmp_path / "lite0.pth", arrays | {"_bn1.num_batches_tracked": np.zeros((), np.int64)})
    same(efficientnet.open_efficientnet(path)[1], params)


def authors_arrays(params, model):
    """The authors' file: query, key and value in one, and their names."""
    theirs = dict(tensors_of(dinov2.table(model), params))
    renames = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer": "blocks",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    arrays = {"mask_token": np.zeros((1, model.width), np.float32)}
    for name, array in theirs.items():
        for old, new in renames.items():
            name = name.replace(old, new)
        if ".attention.attention." not in name:
            arrays[name] = array
    for i in range(model.num_layers):
        for leaf in ("weight", "bias"):
            three = [
                theirs[f"encoder.layer.{i}.attention.attention.{part}.{leaf}"] for part in ("query", "key", "value")
            ]
            arrays[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(three)
    return arrays


def test_dinov2_s_authors_file_says_which_network_it_is(tmp_path):
    params = drawn(dinov2.shapes_of(SMALL_DINO))
    arrays = authors_arrays(params, SMALL_DINO)
    assert "blocks.1.attn.qkv.weight" in arrays and "blocks.0.ls1.gamma" in arrays and "norm.bias" in arrays
    model, read = dinov2.open_authors(write_zip(tmp_path / "dinov2.pth", arrays), position_offset=0.1)
    assert model == SMALL_DINO.clone(position_offset=0.1)
    same(read, params)


def test_dinov2_s_folder_is_written_and_read(tmp_path):
    params = drawn(dinov2.shapes_of(SMALL_DINO))
    folder.write_part(tmp_path, dinov2.config_of(SMALL_DINO), dinov2.table(SMALL_DINO), params)
    part = folder.open_part(tmp_path)
    assert part.kind == "Dinov2Model" and part.model == SMALL_DINO.clone(hidden=4 * 128)
    same(folder.params_of_part(part), params)


@pytest.mark.parametrize(
    "read, arrays, message",
    [
        (
            inception.open_inception,
            {"fc.weight": np.zeros((1000, 2048), np.float32)},
            "does not fit its config: .*Conv2d_1a",
        ),
        (
            efficientnet.open_efficientnet,
            {"_fc.weight": np.zeros((2, 3), np.float32)},
            "_conv_stem.weight .* is not there",
        ),
        (
            dinov2.open_authors,
            {"pos_embed": np.zeros((3, 4), np.float32)},
            "is no DINOv2 of its authors: give dinov2_vits14",
        ),
    ],
    ids=["inception", "efficientnet", "dinov2"],
)
def test_files_of_other_networks_are_refused(read, arrays, message, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_dinov2_with_registers_is_refused(tmp_path):
    arrays = authors_arrays(drawn(dinov2.shapes_of(SMALL_DINO)), SMALL_DINO) | {
        "register_tokens": np.zeros((1, 4, 128))
    }
    np.savez(tmp_path / "reg.npz", **arrays)
    with pytest.raises(InputError, match="registers, which is not supported: give the one without"):
        dinov2.open_authors(tmp_path / "reg.npz")


@pytest.mark.parametrize("key, value", [("use_swiglu_ffn", True), ("num_channels", 1), ("hidden_act", "silu")])
def test_configs_of_other_dinov2s_are_refused(key, value):
    with pytest.raises(InputError, match=f"Dinov2Model with {key}={value!r} is not supported"):
        dinov2.model_of({key: value})


def test_an_npz_that_is_none_or_has_objects_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    for name, message in {
        "text": "can't be read as an npz",
        "objects": "can't be read as an npz",
        "none": "not there",
    }.items():
        with pytest.raises(InputError, match=message):
            inception.open_inception(tmp_path / f"{name}.npz")
