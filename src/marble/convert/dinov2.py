"""DINOv2 in two kinds of file: transformers' ``Dinov2Model``, and the checkpoints that its authors publish.

The table has transformers' names; ``of_authors`` gives the tensors of ``dinov2_vitl14_pretrain.pth`` and its kin these.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from marble.convert.names import (
    CONV,
    DENSE,
    Entry,
    Layout,
    attention,
    layer,
    norm,
    params_of,
    renamed,
    within,
)
from marble.convert.npz_file import read_arrays
from marble.convert.published import check_supported
from marble.convert.tensors import Tensor, Tensors
from marble.convert.transformers_config import Fields, read, written
from marble.errors import InputError
from marble.models.dinov2 import DinoV2

NAME = "Dinov2Model"
NOT_READ = ("embeddings.mask_token", "classifier.weight", "classifier.bias")
"""What stands for hidden patches in training, and the last layer of a classifier on top."""
SUPPORTED = {"use_swiglu_ffn": (False,), "qkv_bias": (True,), "num_channels": (3,), "hidden_act": ("gelu",)}
FIELDS: Fields = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 14),
    "width": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "epsilon": ("layer_norm_eps", 1e-6),
}
HEAD_CHANNELS = 64
"""Of each network that the authors publish; their files say no number of heads."""
AUTHORS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
"""Beginnings of the authors' names, of a whole and within a block, where they are not transformers'."""

FIRST = Layout(lambda a: a[0, 0], lambda a: a[None, None])
"""[1 1 c] <-> [c]."""
ROWS = Layout(lambda a: a[0], lambda a: a[None])
"""[1 n c] <-> [n c]."""


def model_of(config: Mapping[str, Any], **fields: Any) -> DinoV2:
    """The network of a config.json of transformers; fields are of what none says. InputError if unsupported."""
    check_supported(config, NAME, SUPPORTED)
    found, ratio = read(config, FIELDS), config.get("mlp_ratio", 4)
    return DinoV2(**found, hidden=int(found["width"] * ratio), **fields)


def config_of(model: DinoV2) -> dict[str, Any]:
    """A config.json of transformers for it."""
    hidden = model.hidden or 4 * model.width
    fixed = {"mlp_ratio": hidden // model.width, "use_mask_token": False} | {k: v[0] for k, v in SUPPORTED.items()}
    return {"architectures": [NAME], "model_type": "dinov2", **written(model, FIELDS), **fixed}


def table(model: DinoV2) -> list[Entry]:
    """Our paths and transformers' names."""
    blocks = [e for i in range(model.num_layers) for e in within(f"block_{i}", f"encoder.layer.{i}.", _block())]
    return [
        Entry("class_token", "embeddings.cls_token", FIRST),
        Entry("positions", "embeddings.position_embeddings", ROWS),
        *layer("patches", "embeddings.patch_embeddings.projection", CONV),
        *blocks,
        *norm("norm_out", "layernorm"),
    ]


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of any file by the names of the table, without those that are ``NOT_READ``."""

    def name_of(name: str) -> str | None:
        name = name.removeprefix("dinov2.")
        return None if name in NOT_READ else name

    return renamed(of_authors(tensors) if "pos_embed" in tensors else tensors, name_of)


def of_authors(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of the authors' file by transformers' names: query, key and value are one there."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        prefix, rest = (f"encoder.layer.{block[1]}.", name[block.end() :]) if block else ("", name)
        stem, dot, leaf = rest.rpartition(".")
        if stem == "attn.qkv":
            for part, third in zip(("query", "key", "value"), _thirds(tensor), strict=True):
                made[f"{prefix}attention.attention.{part}.{leaf}"] = third
        else:
            made[prefix + AUTHORS.get(rest, AUTHORS.get(stem, stem) + dot + leaf)] = tensor
    return made


def _thirds(tensor: Tensor) -> list[Tensor]:
    size = tensor.shape[0] // 3
    return [tensor.part(slice(i * size, (i + 1) * size)) for i in range(3)]


def open_authors(path: str | os.PathLike[str], **fields: Any) -> tuple[DinoV2, Any]:
    """(network, parameters) of an authors' file; its shapes say which network. InputError for another network's."""
    tensors = read_arrays(path)
    shapes = [tensors[name].shape if name in tensors else () for name in ("pos_embed", "patch_embed.proj.weight")]
    if list(map(len, shapes)) != [3, 4]:
        raise InputError(f"{path} is no DINOv2 of its authors: give dinov2_vits14_pretrain.pth or one of its kin")
    if "register_tokens" in tensors:
        raise InputError(f"{path} is a DINOv2 with registers, which is not supported: give the one without")
    (_, places, _), (width, _, patch, _) = shapes
    side = math.isqrt(max(places - 1, 0))
    layers = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    model = DinoV2(side * patch, patch, width, len(layers), max(width // HEAD_CHANNELS, 1), **fields)
    return model, params_of(table(model), as_now(tensors), shapes_of(model), source=os.fspath(path))


def shapes_of(model: DinoV2) -> Any:
    """The shapes of its parameters; nothing is computed."""
    image = jnp.zeros((1, model.patch_size, model.patch_size, 3))
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def _block() -> list[Entry]:
    names = ("attention.query", "attention.key", "attention.value", "output.dense")
    return [
        *norm("norm_0", "norm1"),
        *attention("attention", "attention", names),
        Entry("scale_0", "layer_scale1.lambda1"),
        *norm("norm_1", "norm2"),
        *layer("perceptron/dense_0", "mlp.fc1", DENSE),
        *layer("perceptron/dense_1", "mlp.fc2", DENSE),
        Entry("scale_1", "layer_scale2.lambda1"),
    ]
