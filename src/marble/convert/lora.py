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

import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from marble.convert import files, safetensors_file
from marble.convert.names import CONV, DENSE, MOST_LISTED, POINTWISE, POINTWISE_1D, Layout, Table, flat, shape_of
from marble.convert.safetensors_file import Stored, parsed, shown
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.lora import Lora, check_ranks, pairs
from marble.schema import nearest

FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""
CONFIG = "lora_adapter_metadata"
"""What the header of a safetensors file calls peft's config, as JSON."""
UP = {DENSE: DENSE, POINTWISE: POINTWISE, POINTWISE_1D: POINTWISE_1D, CONV: POINTWISE}
"""How the second kernel stands in a file, by the layout of what is adapted; the first stands as that does."""
NAME = re.compile(
    r"(?P<module>.+?)(?P<joint>\.lora_|\.lora\.|_lora\.)(?P<half>A|B|down|up)\.weight|(?P<scaled>.+)\.alpha"
)
TEXT = re.compile(r"text_encoder(_\d)?\.|lora_te\d?_")
PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")
"""peft's ways to start that leave the base as it is."""
MOST_NAME = 200
"""Letters of a name that a message shows as it is."""
MOST_RANK = 2**16
"""Of a pair: above the width of any layer there is."""
PEFT_ALPHA = 8
"""peft's own, where its config does not say."""

ORIGINAL = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
"""Names in Stable Diffusion's own code (Rombach et al. 2022) of what diffusers calls so."""
ORIGINAL_IN_BLOCK = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""The same within a residual block; transformers have the same names in both."""
IN_BLOCK = re.compile(r"(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


class Module(NamedTuple):
    """A layer that can be adapted: its kernel's path and shape here, and the layouts of down and up in a file."""

    ours: str
    shape: tuple[int, ...]
    down: Layout
    up: Layout


class Layer(NamedTuple):
    """What a file has of a module."""

    name: str
    module: Module
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


def read_file(path: str | os.PathLike[str], table: Table, shapes: Any, **options: Any) -> tuple[Lora, dict[str, Any]]:
    """``read`` of a file, with the metadata of its header if it is a safetensors file."""
    tensors = files.read(path)
    return read(tensors, table, shapes, metadata=metadata_of(path), source=str(path), **options)


def metadata_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the header of a safetensors file that can be read; of another file, none."""
    path = Path(path)
    stored = Stored(path, path.stat().st_size)
    head = stored.bytes(0, min(stored.size, 9)).tobytes()
    if path.suffix != ".safetensors" and head[5:] != b"\0\0\0{":
        return {}
    header = parsed(stored, stored.bytes(8, int.from_bytes(head[:8], "little")).tobytes())
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise stored.damaged("its metadata is not of texts")
    return metadata


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
    kept = {name: tensor for name, tensor in tensors.items() if not TEXT.match(name)}
    if len(kept) < len(tensors) and not ignore_text_encoder:
        first = _short(next(name for name in tensors if name not in kept))
        raise InputError(
            f"{source} adapts a text encoder too ({len(tensors) - len(kept)} arrays, as {first}), and is another model "
            f"without that: to read the rest alone, say ignore_text_encoder=True"
        )
    modules = _modules(table, flat(shapes))
    keys = _sorted(kept, modules, part, source)
    _check(kept, keys, modules, source)
    config = _config(metadata or {}, part, source)
    layers = [
        Layer(name, modules[name], kept[key["down"]], kept[key["up"]], _alpha(name, key, kept, config, source))
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
    config = {f"{part}.{key}": value for key, value in _peft_config(lora, ranks).items()}
    metadata = {"format": "pt", CONFIG: json.dumps(config, indent=2, sort_keys=True)}
    safetensors_file.write(path, _theirs(halves, dtype), sizes, metadata=metadata)


def _modules(table: Table, kernels: Mapping[str, Any]) -> dict[str, Module]:
    """By their names, the modules of a table whose kernels are among these."""
    return {
        theirs.removesuffix(".weight"): Module(ours, tuple(kernels[ours].shape), layout, UP[layout])
        for ours, theirs, layout in table
        if ours in kernels and theirs.endswith(".weight") and ours.endswith("/kernel") and layout in UP
    }


def _sorted(tensors: Tensors, modules: Collection[str], part: str, source: str) -> dict[str, dict[str, str]]:
    """{module: {"down", "up", "alpha": key}}; InputError for a key that is of none, and for two that are the same."""
    kohyas = {**original_names(modules), **{name: name for name in modules}}
    named = {**kohyas, **{f"lora_{part}_{name.replace('.', '_')}": module for name, module in kohyas.items()}}
    found: dict[str, dict[str, str]] = {}
    unknown, twice = {}, []
    for key in tensors:
        module, half = _split(key, part)
        if module not in named:
            unknown[key] = module
            continue
        halves = found.setdefault(named[module], {})
        if half in halves:
            twice.append(f"{key} and {halves[half]} are the same")
        halves[half] = key
    listed = [f"{_short(key)} {_why(module, named)}" for key, module in list(unknown.items())[:MOST_LISTED]]
    _complain([*listed, *twice], len(unknown) + len(twice), source)
    if not found:
        raise InputError(f"{source} has no adapter of the {part}: is it a file of LoRA?")
    return {name: found[name] for name in modules if name in found}


def original_names(modules: Collection[str]) -> dict[str, str]:
    """{name in Stable Diffusion's own code: name in diffusers} of the modules of a U-Net; of others, none."""
    blocks = sum(re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1", name) is not None for name in modules)
    attending = {name.split(".attentions.")[0] for name in modules if ".attentions." in name}
    names = dict(ORIGINAL)
    for name in modules:
        if match := IN_BLOCK.fullmatch(name):
            way, level, kind, i, rest = match.groups()
            first = int(level or 0) * (blocks + 1) + (way == "down")
            at = first + (int(i) if kind in ("resnets", "attentions") else blocks)
            part = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1}[kind]
            part += kind == "upsamplers" and f"up_blocks.{level}" in attending
            rest = "op" if kind == "downsamplers" else ORIGINAL_IN_BLOCK.get(rest, rest)
            place = {"down": f"input_blocks.{at}.{part}", "up": f"output_blocks.{at}.{part}"}
            names[name] = f"{place.get(way) or f'middle_block.{2 * int(i) + part}'}.{rest}"
    return {names[name]: name for name in modules if name in names}


def _split(key: str, part: str) -> tuple[str | None, str]:
    """The module, by the table's name or by kohya's, and which of "down", "up", "alpha" it is; None for another."""
    match = NAME.fullmatch(key)
    if not match:
        return None, ""
    half = {"A": "down", "B": "up", None: "alpha"}.get(match["half"], match["half"])
    module = (match["module"] or match["scaled"]).removeprefix(f"{part}.").replace(".processor.", ".")
    is_old_output = match["joint"] == "_lora." and module.endswith(".to_out")
    return module + ".0" * is_old_output, half


def _why(module: str | None, named: Mapping[str, str]) -> str:
    if module is None:
        return "is no weight of LoRA (what is read: lora_A, lora_B, lora_down, lora_up, alpha)"
    is_kohya = module.startswith("lora_")
    return f"is of no layer of this model{nearest(module, [n for n in named if n.startswith('lora_') == is_kohya])}"


def _short(key: str) -> str:
    """A name on one line, whatever a file has."""
    return key if key.isprintable() and len(key) <= MOST_NAME else shown(key)


def _check(tensors: Tensors, keys: Mapping[str, Mapping[str, str]], modules: Mapping[str, Module], source: str) -> None:
    """InputError unless each module has both halves, and they are of its kernel's shape and of one rank."""
    lines = []
    for name, key in keys.items():
        for half, other in (("down", "up"), ("up", "down")):
            if half not in key:
                lines.append(f"{key.get(other, key.get('alpha'))} is there without its {half}")
        if "down" in key and "up" in key:
            lines += _misfits(key, tensors, modules[name])
        if "alpha" in key and math.prod(tensors[key["alpha"]].shape) != 1:
            lines.append(f"{key['alpha']} is {list(tensors[key['alpha']].shape)} and must be one number")
    _complain(lines, len(lines), source)


def _misfits(key: Mapping[str, str], tensors: Tensors, module: Module) -> list[str]:
    down, up = (tuple(tensors[key[half]].shape) for half in ("down", "up"))
    rank = down[0] if down and down[0] <= MOST_RANK else 0
    wanted = {
        "down": shape_of((*module.shape[:-1], rank), module.down),
        "up": shape_of((rank, module.shape[-1]), module.up),
    }
    limits = "" if rank else f", its rank from 1 to {MOST_RANK}"
    return [
        f"{key[half]} is {list(shape)} and must be {list(wanted[half])}{limits}"
        for half, shape in (("down", down), ("up", up))
        if not rank or _bare(shape) != _bare(wanted[half])
    ]


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without a window of 1x1: some files have it for dense layers, and some lack it for 1x1 convolutions."""
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape


def _complain(lines: list[str], count: int, source: str) -> None:
    if count:
        more = f"; and {count - MOST_LISTED} more" if count > MOST_LISTED else ""
        raise InputError(f"{source} does not fit the model: {'; '.join(lines[:MOST_LISTED])}{more}")


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


def _peft_config(lora: Lora, ranks: Mapping[str, int]) -> dict[str, Any]:
    """What peft is told; modules that have another rank than lora's are named, each with an alpha of the same scaling.

    Only what the adapters need, for an older peft refuses keys that it does not know.
    """
    others = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != lora.rank}
    return {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": _whole(lora.scaling * lora.rank if lora.alpha is None else lora.alpha),
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": {name: _whole(lora.scaling * rank) for name, rank in others.items()},
    }


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _config(metadata: Mapping[str, str], part: str, source: str) -> dict[str, Any] | None:
    """peft's config of this part, None where a file says none; InputError for what is no plain LoRA."""
    if CONFIG not in metadata:
        return None
    try:
        said = json.loads(metadata[CONFIG])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} has metadata {CONFIG} that is not JSON: download or copy it again") from error
    if not isinstance(said, dict):
        raise InputError(f"{source} has metadata {CONFIG} that is no object: download or copy it again")
    config = {key.removeprefix(f"{part}."): value for key, value in said.items() if key.startswith(f"{part}.")}
    config = config or {key: value for key, value in said.items() if "." not in key}
    kinds = [key for key in ("use_dora", "use_qalora", "lora_bias") if config.get(key)]
    start = config.get("init_lora_weights", True)
    kinds += [f"init_lora_weights={shown(start)}"] if start not in PLAIN_INITS else []
    if kinds:
        raise InputError(f"{source} is LoRA with {', '.join(kinds)}, which is not supported")
    return config or None


def _alpha(name: str, key: Mapping[str, str], tensors: Tensors, config: Mapping[str, Any] | None, source: str) -> float:
    """What a module's alpha is, in the sense of alpha / rank."""
    rank = tensors[key["up"]].shape[1]
    alpha = rank
    if "alpha" in key:
        alpha = tensors[key["alpha"]].read().item()
    elif config is not None:
        alpha = _of_pattern(config.get("alpha_pattern") or {}, name, source, config.get("lora_alpha", PEFT_ALPHA))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 2**64:
        raise InputError(f"{source} has alpha {shown(alpha)} for {name}, and it must be a number above 0")
    # rsLoRA (Kalajdzievski 2023) divides by the root of the rank
    return float(alpha * math.sqrt(rank) if config and config.get("use_rslora") and "alpha" not in key else alpha)


def _of_pattern(patterns: Any, name: str, source: str, otherwise: Any) -> Any:
    """The first value whose name is the module's or its end, as in peft; there they may be any regular expressions."""
    if not isinstance(patterns, dict):
        raise InputError(f"{source} has the alpha_pattern {shown(patterns)}, and it must be names and numbers")
    for pattern, value in patterns.items():
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise InputError(f"{source} has an alpha_pattern {shown(pattern)}, and what is read is names of modules")
        if plain == name or (not pattern.startswith("^") and name.endswith(f".{plain}")):
            return value
    return otherwise
