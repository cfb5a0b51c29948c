"""DiT: by diffusers' names (``DiTTransformer2DModel``), and by those of the paper's own ``.pt`` files.

Two things of the files don't stand in ours, and are seen to before a table is read and after one is written. diffusers
holds the embeddings of time and label in every block, all alike (``without_copies``, ``with_copies``). The paper's
files hold q, k and v in one array, and the positions, which are computed (``unfused``, ``fused``); they have no
config, so that ``model_of_tensors`` reads the architecture off the shapes.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from marble.convert.dit_names import DIFFUSERS, PAPER, entries
from marble.convert.names import Entry
from marble.convert.published import check_supported, side_of, unsupported
from marble.convert.reading import Shapes
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.dit import DiT, positions

NAME = "DiTTransformer2DModel"
SUPPORTED = {
    "_class_name": (NAME, "Transformer2DModel"),
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "dropout": (0.0,),
    # Of configs written while this network was a case of Transformer2DModel.
    "attention_type": ("default",),
    "caption_channels": (None,),
    "cross_attention_dim": (None,),
    "double_self_attention": (False,),
    "interpolation_scale": (None, 1, 1.0),
    "num_vector_embeds": (None,),
    "only_cross_attention": (False,),
}
"""What each key of a config may say; the first is what leaving it out means."""
SIDE = 32
"""Of latents, where a config leaves sample_size out."""
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""By the width, of the paper's S, B, L and XL."""
COPIED = re.compile(r"transformer_blocks\.(\d+)\.norm1\.emb\.(.+)")
FUSED = re.compile(r"(blocks\.\d+\.attn\.)([qkv])(\.\w+)")
POSITIONS = "pos_embed"
CLOSE = 1e-2
"""How far a file's positions may be from the formula: half precision is, another formula is not."""


def model_of(config: Mapping[str, Any], **fields: Any) -> DiT:
    """The model of a published config; fields are of what no config says, such as dtype. InputError if unsupported."""
    check_supported(config, NAME, SUPPORTED)
    patch_size, heads = config.get("patch_size", 2), config.get("num_attention_heads") or 16
    side, classes = side_of(config, NAME, SIDE), config.get("num_embeds_ada_norm", 1000)
    if classes is None:
        raise unsupported(NAME, "num_embeds_ada_norm", None, "a number of classes")
    if side % patch_size:
        raise unsupported(NAME, "sample_size", side, f"a multiple of patch_size, {patch_size}")
    return DiT(
        out_channels=config.get("out_channels") or config.get("in_channels", 4),
        patch_size=patch_size,
        width=heads * (config.get("attention_head_dim") or 72),
        num_layers=config.get("num_layers", 28),
        num_heads=heads,
        num_classes=classes,
        grid_size=side // patch_size,
        time_convention="mixed",
        perceptron_epsilon=config.get("norm_eps", 1e-5),
        **fields,
    )


def config_of(model: DiT, *, in_channels: int, sample_size: int) -> dict[str, Any]:
    """What diffusers is told of a model for images of that size. InputError where it has none like it."""
    if model.num_classes is None:
        raise InputError(f"diffusers has no {NAME} without labels, as num_classes=None is")
    if model.text_channels is not None:
        raise InputError(f"diffusers has no {NAME} told of texts, as text_channels={model.text_channels} is")
    if model.reads_s:
        raise InputError(f"diffusers has no {NAME} that is told where a step ends, as reads_s=True is")
    _check_computed(model, "diffusers' DiT", time_convention="mixed", mlp_ratio=4.0)
    _grid(model, sample_size)
    return {
        **{key: values[0] for key, values in SUPPORTED.items() if key in tuple(SUPPORTED)[:6]},
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": model.out_channels,
        "patch_size": model.patch_size,
        "num_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "attention_head_dim": model.width // model.num_heads,
        "num_embeds_ada_norm": model.num_classes,
        "norm_eps": model.perceptron_epsilon,
    }


def table(model: DiT) -> list[Entry]:
    """Our paths and diffusers' names, for tensors ``without_copies``."""
    return entries(model, DIFFUSERS)


def without_copies(tensors: Tensors, model: DiT, *, source: str = "the file") -> dict[str, Tensor]:
    """A file's tensors with the embeddings of the first block alone.

    InputError, which begins with source, where another block's are missing, or other numbers than the first one's:
    then blocks are told different things of time and label, and ours are told one.
    """
    kept = {name: t for name, t in tensors.items() if not (found := COPIED.fullmatch(name)) or found[1] == "0"}
    for first in (name for name in kept if COPIED.fullmatch(name)):
        numbers = tensors[first].read()
        for name in _copies(first, model):
            if name not in tensors:
                raise InputError(f"{source} does not fit its config: {name} is not there")
            if not np.array_equal(tensors[name].read(), numbers):
                raise InputError(
                    f"{source} has blocks with embeddings of their own: {name} differs from {first}. Models trained on "
                    "in diffusers may; what is supported is one embedding for all blocks"
                )
    others = {name for first in kept for name in _copies(first, model)}
    return {name: t for name, t in tensors.items() if name in kept or name not in others}


def with_copies(written: Iterable[tuple[str, np.ndarray]], model: DiT) -> Iterator[tuple[str, np.ndarray]]:
    """What ``tensors_of`` writes, and the first block's embeddings once more for each other block."""
    for name, array in written:
        yield name, array
        yield from ((copy, array) for copy in _copies(name, model))


def model_of_tensors(tensors: Tensors, *, source: str = "the file", **fields: Any) -> DiT:
    """The model of a file that has the paper's names; fields are of what no shape says, such as dtype.

    The number of heads is the paper's for the width, unless it is among the fields. The table of labels has a row more
    than there are classes. InputError, which begins with source, where these are not such names.
    """
    shapes = Shapes(tensors, source, "it is no DiT of the paper's names")
    width, _, patch_size, _ = shapes.of("x_embedder.proj.weight")
    heads = fields.pop("num_heads", None) or HEADS.get(width)
    if heads is None:
        raise InputError(
            f"{source} has a width of {width}, for which the paper has no number of heads: "
            f"give num_heads, or take one of {', '.join(map(str, HEADS))}"
        )
    labels = tensors.get("y_embedder.embedding_table.weight")
    return DiT(
        out_channels=shapes.of("final_layer.linear.weight")[0] // patch_size**2,
        patch_size=patch_size,
        width=width,
        num_layers=max(shapes.count(r"blocks\.(\d+)\."), 1),
        num_heads=heads,
        mlp_ratio=shapes.of("blocks.0.mlp.fc1.weight")[0] / width,
        num_classes=None if labels is None else labels.shape[0] - 1,
        grid_size=math.isqrt(shapes.of(POSITIONS)[1]),
        **fields,
    )


def original_table(model: DiT) -> list[Entry]:
    """Our paths and the paper's names, for tensors ``unfused``. InputError for a model that they don't compute."""
    _check_computed(model, "the paper's DiT", time_convention="adm", perceptron_epsilon=1e-6)
    return entries(model, PAPER)


def unfused(tensors: Tensors, model: DiT, *, source: str = "the file") -> dict[str, Tensor]:
    """A file's tensors with q, k and v as three, and without the positions.

    InputError, which begins with source, where those are not the ones that the model computes.
    """
    parts = dict(tensors)
    for name in [name for name in tensors if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.\w+", name)]:
        fused_one, size = parts.pop(name), tensors[name].shape[0] // 3
        for i, letter in enumerate("qkv"):
            rows = slice(i * size, (i + 1) * size if i < 2 else None)
            parts[name.replace(".qkv.", f".{letter}.")] = fused_one.part(rows)
    if POSITIONS in parts:
        _check_positions(parts.pop(POSITIONS), model, source)
    return parts


def fused(
    written: Iterable[tuple[str, np.ndarray]], model: DiT, *, sample_size: int | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """What ``tensors_of`` writes with q, k and v as one, and the positions of images of that size.

    sample_size is not needed where the model says its grid_size.
    """
    size = model.grid_size if sample_size is None else _grid(model, sample_size)
    if size is None:
        raise InputError("the paper's DiT has its positions in the file: give sample_size, of the images")
    grid, dtype, waiting = positions(size, size, model.width)[None], np.float32, {}
    for name, array in written:
        dtype = array.dtype
        if not (found := FUSED.fullmatch(name)):
            yield name, array
            continue
        whole = f"{found[1]}qkv{found[3]}"
        parts = waiting.setdefault(whole, {})
        parts[found[2]] = array
        if len(parts) == 3:
            yield whole, np.concatenate([parts[letter] for letter in "qkv"])
            del waiting[whole]
    yield POSITIONS, grid.astype(dtype)


def _copies(name: str, model: DiT) -> list[str]:
    """The names in the other blocks of an embedding of the first one."""
    found = COPIED.fullmatch(name)
    blocks = range(1, model.num_layers) if found and found[1] == "0" else ()
    return [f"transformer_blocks.{i}.norm1.emb.{found[2]}" for i in blocks]


def _grid(model: DiT, sample_size: int) -> int:
    """Patches a side of images of that size; InputError where the model has its positions for others."""
    if sample_size % model.patch_size or model.grid_size not in (None, sample_size // model.patch_size):
        wanted = model.grid_size and model.grid_size * model.patch_size
        remedy = wanted or f"a multiple of patch_size, {model.patch_size}"
        raise InputError(f"sample_size={sample_size} is not of this model: give {remedy}")
    return sample_size // model.patch_size


def _check_positions(tensor: Tensor, model: DiT, source: str) -> None:
    size = model.grid_size or math.isqrt(tensor.shape[1])
    shape = (1, size * size, model.width)
    if tensor.shape != shape:
        raise InputError(f"{source}: {POSITIONS} is {list(tensor.shape)} and must be {list(shape)}, of a square grid")
    error = np.abs(tensor.read().astype(np.float32) - positions(size, size, model.width)[None]).max()
    if not error < CLOSE:
        raise InputError(
            f"{source}: {POSITIONS} differs by {error:.2g} from sines and cosines of {size} x {size} places, "
            "which is what is supported"
        )


def _check_computed(model: DiT, who: str, **values: Any) -> None:
    """InputError unless the model computes what theirs does, which their files don't say."""
    for field, value in values.items():
        if getattr(model, field) != value:
            raise InputError(
                f"{who} has {field}={value!r}, and this model {getattr(model, field)!r}: "
                "it would answer otherwise there"
            )
