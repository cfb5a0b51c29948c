"""CLIP in transformers' files: its configs, and its arrays by their names there.

transformers' classes are told apart by ``architectures`` of config.json: CLIPTextModel and CLIPVisionModel are the
networks without their projections, CLIPTextModelWithProjection and CLIPVisionModelWithProjection have them, and
CLIPModel is the whole. Files name all their arrays as parts of the whole (``text_model.``), but for those of the first
two that transformers 5 wrote: ``as_now`` adds what is left out there.
"""

from collections.abc import Collection, Mapping
from typing import Any

from marble.convert.names import CONV, DENSE, Entry, attention, embedding, layer, norm, renamed, within
from marble.convert.published import check_supported
from marble.convert.tensors import Tensor, Tensors
from marble.convert.transformers_config import BLOCKS, Fields, architecture_of, read, written
from marble.errors import InputError
from marble.models.clip import Clip, ClipText, ClipVision

NAMES = (
    *("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "CLIPModel",
)
"""The classes of transformers."""
NOT_READ = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""What older files have and no network needs: 0, 1, 2, ..."""

PARTS = ("embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm.")
"""How names begin that are not said to be of text_model or vision_model."""

TEXT: Fields = {
    **BLOCKS,
    "vocab_size": ("vocab_size", 49408),
    "max_length": ("max_position_embeddings", 77),
    "width": ("hidden_size", 512),
    "num_heads": ("num_attention_heads", 8),
    "hidden": ("intermediate_size", 2048),
    "eos_token_id": ("eos_token_id", 49407),
}
VISION: Fields = {
    **BLOCKS,
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
    "width": ("hidden_size", 768),
    "num_heads": ("num_attention_heads", 12),
    "hidden": ("intermediate_size", 3072),
}
PROJECTION: Fields = {"projection": ("projection_dim", 512)}


def text(model: ClipText) -> list[Entry]:
    """The table of CLIPTextModel or CLIPTextModelWithProjection."""
    table = [
        *embedding("tokens", "embeddings.token_embedding"),
        *embedding("positions", "embeddings.position_embedding"),
        *_blocks(model.num_layers),
        *norm("norm_out", "final_layer_norm"),
    ]
    return within("", "text_model.", table) + _projection(model, "text_projection")


def vision(model: ClipVision) -> list[Entry]:
    """The table of CLIPVisionModel or CLIPVisionModelWithProjection; one of the names there is misspelt."""
    table = [
        Entry("class_token", "embeddings.class_embedding"),
        *layer("patches", "embeddings.patch_embedding", CONV, use_bias=False),
        *embedding("positions", "embeddings.position_embedding"),
        *norm("norm_in", "pre_layrnorm"),
        *_blocks(model.num_layers),
        *norm("norm_out", "post_layernorm"),
    ]
    return within("", "vision_model.", table) + _projection(model, "visual_projection")


def whole(model: Clip) -> list[Entry]:
    """The table of CLIPModel."""
    parts = within("text", "", text(model.text)) + within("vision", "", vision(model.vision))
    return [*parts, Entry("logit_scale", "logit_scale")]


def table(model: Clip | ClipText | ClipVision) -> list[Entry]:
    """The table of whichever it is."""
    return {Clip: whole, ClipText: text, ClipVision: vision}[type(model)](model)


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of an older or a newer file by the names of the tables, without those that are ``NOT_READ``."""
    half = "vision_model." if "embeddings.class_embedding" in tensors else "text_model."

    def name_of(name: str) -> str | None:
        name = half + name if name.startswith(PARTS) else name
        return None if name in NOT_READ else name

    return renamed(tensors, name_of)


def as_in_file(tensors: Tensors, there: Collection[str]) -> dict[str, Tensor]:
    """The tensors by the names that a file has, which may be without text_model. or vision_model.: see ``as_now``."""

    def name_of(name: str) -> str:
        bare = name.removeprefix("text_model.").removeprefix("vision_model.")
        return bare if name not in there and bare in there else name

    return renamed(tensors, name_of)


def model_of(config: Mapping[str, Any], *, architecture: str | None = None, **options: Any) -> Any:
    """The network of a config.json of transformers: a Clip, ClipText or ClipVision.

    architecture is the class's name where the file doesn't say it; options, as dtype, are for the networks. An
    InputError for what isn't supported.
    """
    name = architecture or architecture_of(config)
    if name == "CLIPModel":
        options |= read(config, PROJECTION)
        text_part = ClipText(**read(_section(config, "text_config"), TEXT), **options)
        return Clip(text_part, ClipVision(**_read_vision(_section(config, "vision_config")), **options))
    options |= read(config, PROJECTION) if name.endswith("WithProjection") else {}
    if name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        return ClipText(**read(config, TEXT), **options)
    if name in ("CLIPVisionModel", "CLIPVisionModelWithProjection"):
        return ClipVision(**_read_vision(config), **options)
    raise InputError(
        f"architecture {name!r} is not supported: it can be CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, "
        "CLIPVisionModel or CLIPVisionModelWithProjection"
    )


def config_of(model: Clip | ClipText | ClipVision) -> dict[str, Any]:
    """A config.json of transformers for it."""
    if isinstance(model, Clip):
        halves = {"text_config": config_of(model.text), "vision_config": config_of(model.vision)}
        return {"architectures": ["CLIPModel"], "model_type": "clip", **halves, **written(model.text, PROJECTION)}
    half, fields = ("Text", TEXT) if isinstance(model, ClipText) else ("Vision", VISION)
    projection = {} if model.projection is None else written(model, PROJECTION)
    name = f"CLIP{half}Model" + ("WithProjection" if projection else "")
    values = written(model.clone(hidden=model.hidden or 4 * model.width), fields)
    return {"architectures": [name], "model_type": f"clip_{half.lower()}_model", **values, **projection}


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A half's part of a whole config; a second one, which some old files have, is what transformers goes by."""
    again = config.get(f"{key}_dict")
    return (config.get(key) or {}) if again is None else again


def _read_vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ClipVision; a side may be given as a pair."""
    check_supported(config, "CLIPVisionModel", {"num_channels": (3,)})
    pairs = {key: config[key] for key in ("image_size", "patch_size") if isinstance(config.get(key), list | tuple)}
    if any(len(set(pair)) != 1 for pair in pairs.values()):
        raise InputError(f"config keys {pairs} are not supported: images and patches must be squares")
    return read({**config, **{key: pair[0] for key, pair in pairs.items()}}, VISION)


def _blocks(num_layers: int) -> list[Entry]:
    return [entry for i in range(num_layers) for entry in within(f"block_{i}", f"encoder.layers.{i}.", _block())]


def _block() -> list[Entry]:
    return [
        *norm("norm_0", "layer_norm1"),
        *attention("attention", "self_attn", ("q_proj", "k_proj", "v_proj", "out_proj")),
        *norm("norm_1", "layer_norm2"),
        *layer("perceptron/dense_0", "mlp.fc1", DENSE),
        *layer("perceptron/dense_1", "mlp.fc2", DENSE),
    ]


def _projection(model: ClipText | ClipVision, theirs: str) -> list[Entry]:
    return [] if model.projection is None else layer("projection", theirs, DENSE, use_bias=False)
