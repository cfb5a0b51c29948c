"""Files of LoRA adapters, one a file: diffusers' and peft's, both ways; those of kohya's scripts and older ones, read.

A module is called as in the architecture's table, ``theirs`` without ``.weight``, here M:

    unet.M.lora_A.weight [rank in]                  .lora_B.weight [out rank]    diffusers and peft
    unet.M.lora.down.weight                         .up.weight                   diffusers' training scripts
    unet.(..).attn1.processor.to_q_lora.down.weight .up.weight                   diffusers before 0.22
    lora_unet_M.lora_down.weight, _ for each dot    .lora_up.weight   .alpha     kohya's sd-scripts

``unet.`` may be left out, and kohya's of SDXL have the names of Stable Diffusion's own code in place of M. Of a
convolution, A has its window and B one of 1x1. alpha is in the first one's metadata, and a number a layer in the last
one; where nothing is said it is the rank, as for diffusers.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from marble.convert import files, safetensors_file
from marble.convert.lora_config import KEY, alpha_of, config_in, written
from marble.convert.lora_names import keys_of, refuse_misfits, short
from marble.convert.names import CONV, DENSE, POINTWISE, POINTWISE_1D, Layout, Table, finite, flat, is_float, shape_of
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.lora import Lora, check_ranks, pairs

FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""
UP = {DENSE: DENSE, POINTWISE: POINTWISE, POINTWISE_1D: POINTWISE_1D, CONV: POINTWISE}
"""How the second kernel stands in a file, by the layout of what is adapted; the first stands as that does."""
TEXT = re.compile(r"text_encoder(_\d)?\.|lora_te\d?_")
MOST_RANK = 2**16
"""Of a pair: above the width of any layer there is."""


class Module(NamedTuple):
    """A layer that can be adapted: its kernel's path and shape here, and the layouts of down and up in a file."""

    ours: str
    shape: tuple[int, ...]
    down: Layout
    up: Layout


class Layer(NamedTuple):
    """What a file has of a module."""

    module: Module
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """The numbers between down and up."""
        return self.up.shape[1]

    @property
    def scaling(self) -> float:
        """What the product of down and up is multiplied by."""
        return self.alpha / self.rank


def read_file(path: str | os.PathLike[str], table: Table, shapes: Any, **options: Any) -> tuple[Lora, dict[str, Any]]:
    """``read`` of a file, or a folder's FILE, with the metadata of its header if it is a safetensors file."""
    path = Path(path) / FILE if (Path(path) / FILE).is_file() else path
    tensors = files.read(path)
    return read(tensors, table, shapes, metadata=files.metadata_of(path), source=str(path), **options)


def read(
    tensors: Tensors,
    table: Table,
    shapes: Any,
    *,
    metadata: Mapping[str, str] | None = None,
    part: str = "unet",
    ignore_text_encoder: bool = False,
    dtype: Any = np.float32,
    source: str = "the file",
) -> tuple[Lora, dict[str, Any]]:
    """The adapters, arrays on the host, and the Lora to merge them with: its targets are just their paths.

    shapes is what ``jax.eval_shape`` says of the model's parameters. Where layers differ in alpha / rank, the Lora has
    what most have, and ``up`` of the others is multiplied by the rest; else the file's bits are kept. What adapts a
    text encoder too is another model without that: it is refused, unless ignore_text_encoder. InputError, one line that
    begins with source, for a key of no layer, a half without the other, and a shape that does not fit.
    """
    kept = finite(_without_text(tensors, ignore_text_encoder, source), source)
    modules = _modules(table, flat(shapes))
    keys = keys_of(kept, modules, part, source)
    _check(kept, keys, modules, source)
    config = config_in(metadata or {}, part, source)
    layers = [
        Layer(modules[name], kept[key["down"]], kept[key["up"]], alpha_of(name, key, kept, config, source))
        for name, key in keys.items()
    ]
    (rank, alpha), _ = Counter((layer.rank, layer.alpha) for layer in layers).most_common(1)[0]
    lora = Lora(rank, alpha, tuple(f"^{re.escape(layer.module.ours)}$" for layer in layers))
    arrays = {layer.module.ours: _pair(layer, layer.scaling / lora.scaling, dtype) for layer in layers}
    return lora, traverse_util.unflatten_dict(arrays, sep="/")


def write(
    lora: Lora, adapters: Any, table: Table, path: str | os.PathLike[str], *, part: str = "unet", dtype: Any = None
) -> None:
    """A safetensors file that ``load_lora_weights`` of diffusers reads, alpha in its metadata; dtype None keeps each.

    In a folder of its own it is best called FILE. InputError for adapters of other kernels than the table's.
    """
    found = pairs(adapters)
    check_ranks(lora, found)
    kernels = {path: np.broadcast_to(0, (*p["down"].shape[:-1], p["up"].shape[1])) for path, p in found.items()}
    modules = _modules(table, kernels)
    unknown = sorted(set(found) - {module.ours for module in modules.values()})
    if unknown:
        raise InputError(f"the adapter {unknown[0]} can't be written: the table has no kernel there")
    names = {name: found[module.ours] for name, module in modules.items()}
    halves = {
        f"{part}.{name}.lora_{letter}.weight": (pair[half], getattr(modules[name], half))
        for name, pair in names.items()
        for half, letter in (("down", "A"), ("up", "B"))
    }
    sizes = {name: (shape_of(a.shape, layout), dtype or a.dtype) for name, (a, layout) in halves.items()}
    ranks = {name: pair["up"].shape[0] for name, pair in names.items()}
    metadata = {"format": "pt", KEY: written(lora, ranks, part)}
    safetensors_file.write(path, _theirs(halves, dtype), sizes, metadata=metadata)


def _without_text(tensors: Tensors, ignore_text_encoder: bool, source: str) -> dict[str, Tensor]:
    """The tensors that adapt no text encoder; InputError where there are others, unless they are to be ignored."""
    kept = {name: tensor for name, tensor in tensors.items() if not TEXT.match(name)}
    if len(kept) < len(tensors) and not ignore_text_encoder:
        first = short(next(name for name in tensors if name not in kept))
        raise InputError(
            f"{source} adapts a text encoder too ({len(tensors) - len(kept)} arrays, as {first}), which is not "
            "supported, and is another model without that: give a file of the network alone, or read the rest "
            "by marble.convert.lora.read with ignore_text_encoder=True"
        )
    return kept


def _modules(table: Table, kernels: Mapping[str, Any]) -> dict[str, Module]:
    """By their names, the modules of a table whose kernels are among these."""
    return {
        theirs.removesuffix(".weight"): Module(ours, tuple(kernels[ours].shape), layout, UP[layout])
        for ours, theirs, layout in table
        if ours in kernels and theirs.endswith(".weight") and ours.endswith("/kernel") and layout in UP
    }


def _check(tensors: Tensors, keys: Mapping[str, Mapping[str, str]], modules: Mapping[str, Module], source: str) -> None:
    """InputError unless each module has both halves, and they are of its kernel's shape and of one rank."""
    lines = []
    for name, key in keys.items():
        for half, other in (("down", "up"), ("up", "down")):
            if half not in key:
                lines.append(f"{key.get(other, key.get('alpha'))} is there without its {half}")
        if "down" in key and "up" in key:
            lines += _misfits(key, tensors, modules[name])
        lines += [
            f"{full} is of {tensors[full].dtype} and must be of floats"
            for half in ("down", "up")
            if (full := key.get(half)) is not None and not is_float(tensors[full].dtype)
        ]
        if "alpha" in key and math.prod(tensors[key["alpha"]].shape) != 1:
            lines.append(f"{key['alpha']} is {list(tensors[key['alpha']].shape)} and must be one number")
    refuse_misfits(lines, source)


def _misfits(key: Mapping[str, str], tensors: Tensors, module: Module) -> list[str]:
    down, up = (tuple(tensors[key[half]].shape) for half in ("down", "up"))
    rank = down[0] if down else 0
    if not 1 <= rank <= MOST_RANK:
        return [f"{key['down']} is {list(down)}, and its rank, the first number, must be from 1 to {MOST_RANK}"]
    wanted = {
        "down": shape_of((*module.shape[:-1], rank), module.down),
        "up": shape_of((rank, module.shape[-1]), module.up),
    }
    return [
        f"{key[half]} is {list(shape)} and must be {list(wanted[half])}"
        for half, shape in (("down", down), ("up", up))
        if _bare(shape) != _bare(wanted[half])
    ]


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without a window of 1x1: some files have it for dense layers, and some lack it for 1x1 convolutions."""
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape


def _pair(layer: Layer, factor: float, dtype: Any) -> dict[str, np.ndarray]:
    *window_and_inputs, outputs = layer.module.shape
    down = _ours(layer.down, (*window_and_inputs, layer.rank), layer.module.down)
    up = _ours(layer.up, (layer.rank, outputs), layer.module.up)
    if not math.isclose(factor, 1, rel_tol=1e-9):
        up = up.astype(np.float64) * factor
    return {"down": np.ascontiguousarray(down, dtype), "up": np.ascontiguousarray(up, dtype)}


def _ours(tensor: Tensor, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    return layout.to_ours(tensor.read().reshape(shape_of(shape, layout)))


def _theirs(halves: Mapping[str, tuple[Any, Layout]], dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name, (array, layout) in halves.items():
        yield name, np.ascontiguousarray(layout.to_theirs(np.asarray(jax.device_get(array))), dtype or array.dtype)
