"""CLIP in transformers' files: names, configs, and OpenCLIP's names of the text half.

transformers' classes are told apart by ``architectures`` of config.json: CLIPTextModel and CLIPVisionModel are the
networks without their projections, CLIPTextModelWithProjection and CLIPVisionModelWithProjection have them, and
CLIPModel is the whole. Files name all their arrays as parts of the whole (``text_model.``), but for those of the first
two that transformers 5 wrote: ``as_now`` adds what is left out there.
"""

import re
from collections.abc import Mapping
from typing import Any

from marble.convert.names import CONV, DENSE, Entry, embedding, layer, norm, renamed, within
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.clip import Clip, ClipText, ClipVision

NOT_READ = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""What older files have and no network needs: 0, 1, 2, ..."""

PARTS = ("embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm.")
"""How names begin that are not said to be of text_model or vision_model."""

Fields = Mapping[str, tuple[str, Any]]
"""Our argument: the key in config.json, and transformers' default where a file leaves it out."""

BLOCKS: Fields = {
    "num_layers": ("num_hidden_layers", 12),
    "activation": ("hidden_act", "quick_gelu"),
    "epsilon": ("layer_norm_eps", 1e-5),
}
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

ACTIVATION_NAMES: Mapping[str, str] = {
    **{name: name for name in ("quick_gelu", "gelu", "gelu_new", "silu", "relu")},
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "swish": "silu",
}
"""transformers' names: ours. Those that stand for one of ours are the same formula, to float32's last digits."""


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


def read(config: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Our arguments, from a config.json; an InputError for a value of another kind, and for an unknown activation."""
    return {ours: _checked(key, config.get(key, default), default) for ours, (key, default) in fields.items()}


def written(model: Any, fields: Fields) -> dict[str, Any]:
    """The keys of a config.json for a network's arguments."""
    return {key: getattr(model, ours) for ours, (key, _) in fields.items()}


def refuse_unless(config: Mapping[str, Any], **supported: Any) -> None:
    """InputError for a key that is there with another value than the supported one."""
    for key, value in supported.items():
        if config.get(key, value) != value:
            raise InputError(f"config key {key}={config[key]!r} is not supported: it must be {value!r}, or left out")


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that a config.json names; InputError where it names none."""
    named = config.get("architectures") or ["CLIPModel"] * (config.get("model_type") == "clip")
    if len(named) != 1:
        raise InputError(
            f"config key architectures={config.get('architectures')!r} must name one class: give architecture"
        )
    return named[0]


def _checked(key: str, value: Any, default: Any) -> Any:
    if key == "hidden_act":
        if value not in ACTIVATION_NAMES:
            raise InputError(f"config key {key}={value!r} is not supported: it can be {', '.join(ACTIVATION_NAMES)}")
        return ACTIVATION_NAMES[value]
    kinds, said = ((int, float), "a number") if isinstance(default, float) else ((int,), "a whole number")
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(f"config key {key}={value!r} is not supported: it must be {said}, such as {default}")
    return value


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A half's part of a whole config; a second one, which some old files have, is what transformers goes by."""
    again = config.get(f"{key}_dict")
    return (config.get(key) or {}) if again is None else again


def _read_vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ClipVision; a side may be given as a pair."""
    refuse_unless(config, num_channels=3)
    pairs = {key: config[key] for key in ("image_size", "patch_size") if isinstance(config.get(key), list | tuple)}
    if any(len(set(pair)) != 1 for pair in pairs.values()):
        raise InputError(f"config keys {pairs} are not supported: images and patches must be squares")
    return read({**config, **{key: pair[0] for key, pair in pairs.items()}}, VISION)


def _blocks(num_layers: int) -> list[Entry]:
    return [entry for i in range(num_layers) for entry in within(f"block_{i}", f"encoder.layers.{i}.", _block())]


def _block() -> list[Entry]:
    attention = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "proj": "out_proj"}
    return [
        *norm("norm_0", "layer_norm1"),
        *(e for ours, theirs in attention.items() for e in layer(f"attention/{ours}", f"self_attn.{theirs}", DENSE)),
        *norm("norm_1", "layer_norm2"),
        *layer("perceptron/dense_0", "mlp.fc1", DENSE),
        *layer("perceptron/dense_1", "mlp.fc2", DENSE),
    ]


def _projection(model: ClipText | ClipVision, theirs: str) -> list[Entry]:
    return [] if model.projection is None else layer("projection", theirs, DENSE, use_bias=False)


def of_open_clip(tensors: Tensors, model: ClipText, *, prefix: str = "") -> dict[str, Tensor]:
    """OpenCLIP's tensors of a text under transformers' names; those whose names don't begin with prefix are left out.

    Stable Diffusion's own files hold them: ``cond_stage_model.model.`` in version 2, ``conditioner.embedders.1.model.``
    in SDXL. Version 2 reads what goes into the last block, so a block more than the model's is not read; nor are
    logit_scale, the mask, and without a projection of the model the file's.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    not_read = {"logit_scale", "attn_mask"} | ({"text_projection"} if model.projection is None else set())
    made = {}
    for name, tensor in found.items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if block and int(block[1]) != model.num_layers:
            made |= _open_clip_block(int(block[1]), block[2], tensor)
        elif not block and name not in not_read:
            made |= _open_clip_ends(name, tensor)
    return made


def _open_clip_block(index: int, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """An array of OpenCLIP's block as those of transformers'; q, k and v are one there, along its first axis."""
    theirs = f"text_model.encoder.layers.{index}."
    if name.startswith("attn.in_proj_"):
        width, kind = tensor.shape[0] // 3, name.removeprefix("attn.in_proj_")
        return {
            f"{theirs}self_attn.{part}_proj.{kind}": tensor.part(slice(i * width, (i + 1) * width))
            for i, part in enumerate("qkv")
        }
    names = {"attn": "self_attn", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2"}
    return {theirs + ".".join(names.get(part, part) for part in name.split(".")): tensor}


def _open_clip_ends(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What is before and after OpenCLIP's blocks; its projection is [w p] where transformers' is [p w]."""
    if name == "text_projection":
        return {"text_projection.weight": Tensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.read().T)}
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    return {f"text_model.{names[name]}" if name in names else name: tensor}
