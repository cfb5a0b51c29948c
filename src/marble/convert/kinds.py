"""The networks that diffusers' and transformers' folders hold: what each class is here, and how its file is read."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.convert import autoencoder_kl, bert, clip, conditional_unet, ddpm, dinov2, dit, taesd
from marble.convert.names import Entry
from marble.convert.published import side_of
from marble.convert.tensors import Tensors
from marble.errors import InputError

Config = Mapping[str, Any]


class Kind(NamedTuple):
    """How a class of networks is read."""

    model: Callable[..., nn.Module]
    """Of a config, and fields."""
    table: Callable[[Any, Config], list[Entry]]
    inputs: Callable[[Any, Config], tuple[Any, ...]]
    """What the network is called with; any sizes that fit."""
    as_now: Callable[[Tensors, Any, str], Tensors] = lambda tensors, model, source: tensors
    """A file's tensors by the names of the table."""


def kind_of(config: Config, source: str) -> str:
    """The class that a config.json names, one of KINDS; InputError, which begins with source, for another one."""
    architectures = config.get("architectures")
    named = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else "")
    kind = str(named).removeprefix("Flax")
    if kind == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
        kind = dit.NAME
    if config.get("model_type") == "bert" and kind.startswith("Bert"):
        kind = "BertModel"
    if kind not in KINDS:
        found = kind or "a network whose config.json names no class"
        raise InputError(f"{source}: {found} is not supported: what is, is {', '.join(KINDS)}")
    return kind


def shapes_of(model: nn.Module, config: Config, kind: str) -> Any:
    """The shapes of the network's parameters; nothing is computed."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *KINDS[kind].inputs(model, config)))["params"]


def _image(side: int, channels: int) -> Any:
    return jnp.zeros((1, side, side, channels))


def _unet_inputs(model: Any, config: Config) -> tuple[Any, ...]:
    side = 2 ** (len(model.channel_mult) - 1)
    context = {"text": jnp.zeros((1, 1, model.text_channels))}
    if model.pooled_channels:
        context |= {"pooled_text": jnp.zeros((1, model.pooled_channels)), "size": jnp.zeros((1, 6))}
    if model.concat_channels:
        context["concat"] = _image(side, model.concat_channels)
    return _image(side, model.out_channels), jnp.zeros(1), context


def _clip_inputs(model: Any, config: Config) -> tuple[Any, ...]:
    tokens = jnp.zeros((1, 1), jnp.int32)
    if isinstance(model, clip.Clip):
        return tokens, _image(model.vision.image_size, 3)
    if isinstance(model, clip.ClipVision):
        return (_image(model.image_size, 3),)
    return (tokens,)


CLIP = {
    name: Kind(
        lambda config, name=name, **fields: clip.model_of(config, architecture=name, **fields),
        lambda model, config: clip.table(model),
        _clip_inputs,
        lambda tensors, model, source: clip.as_now(tensors),
    )
    for name in clip.NAMES
}
KINDS: Mapping[str, Kind] = {
    conditional_unet.NAME: Kind(
        conditional_unet.model_of,
        lambda model, config: conditional_unet.table(model, linear=conditional_unet.uses_linear_projection(config)),
        _unet_inputs,
    ),
    ddpm.NAME: Kind(
        ddpm.model_of,
        lambda model, config: ddpm.table(model, side_of(config, ddpm.NAME)),
        lambda model, config: (_image(side_of(config, ddpm.NAME), config.get("in_channels", 3)), jnp.zeros(1)),
        lambda tensors, model, source: ddpm.as_now(tensors),
    ),
    dit.NAME: Kind(
        dit.model_of,
        lambda model, config: dit.table(model),
        lambda model, config: (_image(side_of(config, dit.NAME, dit.SIDE), config.get("in_channels", 4)), jnp.zeros(1)),
        lambda tensors, model, source: dit.without_copies(tensors, model, source=source),
    ),
    autoencoder_kl.NAME: Kind(
        autoencoder_kl.model_of,
        lambda model, config: autoencoder_kl.table(model),
        lambda model, config: (_image(2 ** (len(model.channel_mult) - 1), model.image_channels),),
        lambda tensors, model, source: autoencoder_kl.as_now(tensors),
    ),
    taesd.NAME: Kind(
        taesd.model_of,
        lambda model, config: taesd.table(model),
        lambda model, config: (_image(2 ** (len(model.num_blocks) - 1), model.image_channels),),
        lambda tensors, model, source: taesd.as_now(tensors),
    ),
    **CLIP,
    "BertModel": Kind(
        bert.model_of,
        lambda model, config: bert.table(model),
        lambda model, config: (jnp.zeros((1, 1), jnp.int32),),
        lambda tensors, model, source: bert.as_now(tensors),
    ),
    dinov2.NAME: Kind(
        dinov2.model_of,
        lambda model, config: dinov2.table(model),
        lambda model, config: (_image(model.patch_size, 3),),
        lambda tensors, model, source: dinov2.as_now(tensors),
    ),
}
