"""The U-Net of Stable Diffusion: its config and its arrays by diffusers' names (``UNet2DConditionModel``)."""

from collections.abc import Mapping
from typing import Any

from marble.convert.blocks import TO_QKV, residual_block
from marble.convert.names import CONV, DENSE, POINTWISE, Entry, Layout, attention, layer, norm
from marble.convert.published import attending, check_supported, multiples, needed, unsupported, widths_of
from marble.convert.unet_places import DIFFUSERS, places
from marble.errors import InputError
from marble.models.conditional_unet import SIZE_CHANNELS, ConditionalUNet

NAME = "UNet2DConditionModel"
SUPPORTED = {
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu",),
    "norm_eps": (1e-5,),
    "center_input_sample": (False,),
    "dual_cross_attention": (False,),
    "only_cross_attention": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None, "text_time"),
    "addition_time_embed_dim": (None, SIZE_CHANNELS),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
}
"""What each key of a config may say; the first is what leaving it out means."""
WITH_TEXT, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def model_of(config: Mapping[str, Any], **fields: Any) -> ConditionalUNet:
    """The model of a published config; fields are of what no config says, such as dtype. InputError if unsupported."""
    check_supported(config, NAME, SUPPORTED)
    channels, channel_mult = multiples(needed(config, NAME, "block_out_channels"), NAME)
    levels = len(channel_mult)
    has_text = attending(config, NAME, levels, PLAIN, WITH_TEXT)
    depths = _a_level(config.get("transformer_layers_per_block", 1), levels, "transformer_layers_per_block")
    # The key has the name of something else by an old mistake of diffusers: it counts the heads.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    blocks = _a_level(config.get("layers_per_block", 2), levels, "layers_per_block")
    if len(set(blocks)) > 1:
        raise unsupported(NAME, "layers_per_block", list(blocks), "one number")
    pooled = None
    if config.get("addition_embed_type"):
        pooled = needed(config, NAME, "projection_class_embeddings_input_dim") - 6 * SIZE_CHANNELS
    read, made = config.get("in_channels", 4), config.get("out_channels") or 4
    if read < made:
        raise InputError(f"{NAME} with in_channels={read} below out_channels={made} is not supported")
    return ConditionalUNet(
        out_channels=made,
        channels=channels,
        channel_mult=channel_mult,
        num_res_blocks=blocks[0],
        transformer_depth=tuple(depth if here else 0 for depth, here in zip(depths, has_text, strict=True)),
        middle_depth=depths[-1],
        num_heads=_a_level(heads, levels, "attention_head_dim"),
        text_channels=_one(config.get("cross_attention_dim", 1280), "cross_attention_dim"),
        pooled_channels=pooled,
        concat_channels=read - made,
        dropout=config.get("dropout", 0.0),
        num_groups=config.get("norm_num_groups", 32),
        **fields,
    )


def uses_linear_projection(config: Mapping[str, Any]) -> bool:
    """Whether the transformers begin and end with linear layers in the file; the arithmetic is the same."""
    return bool(config.get("use_linear_projection", False))


def config_of(model: ConditionalUNet, *, sample_size: int | None = None, linear: bool = False) -> dict[str, Any]:
    """What diffusers is told of a model; linear as in ``table``."""
    has_text = [depth > 0 for depth in model.transformer_depth]
    depths = [depth or model.middle_depth for depth in model.transformer_depth]
    if depths[-1] != model.middle_depth:
        raise InputError(
            f"diffusers has no U-Net whose middle_depth={model.middle_depth} is not that of the last level"
        )
    if model.reads_s:
        raise InputError(f"diffusers has no {NAME} that is told where a step ends, as reads_s=True is")
    config = {
        "_class_name": NAME,
        "sample_size": sample_size,
        "in_channels": model.out_channels + model.concat_channels,
        "out_channels": model.out_channels,
        "block_out_channels": widths_of(model.channels, model.channel_mult),
        "down_block_types": [WITH_TEXT[0] if here else PLAIN[0] for here in has_text],
        "up_block_types": [WITH_TEXT[1] if here else PLAIN[1] for here in reversed(has_text)],
        "layers_per_block": model.num_res_blocks,
        "transformer_layers_per_block": depths,
        "attention_head_dim": list(model.num_heads),
        "cross_attention_dim": model.text_channels,
        "use_linear_projection": linear,
        "norm_num_groups": model.num_groups,
        "dropout": model.dropout,
        **{key: values[0] for key, values in SUPPORTED.items() if key not in ("addition_embed_type",)},
    }
    if model.pooled_channels is not None:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = SIZE_CHANNELS
        config["projection_class_embeddings_input_dim"] = model.pooled_channels + 6 * SIZE_CHANNELS
    return config


def table(model: ConditionalUNet, *, linear: bool = False) -> list[Entry]:
    """Our paths and diffusers' names. linear: whether transformers begin and end with linear layers in their file."""
    projection = DENSE if linear else POINTWISE
    entries = [*layer("conv_in", "conv_in", CONV), *norm("norm_out", "conv_norm_out")]
    entries += layer("conv_out", "conv_out", CONV)
    embeddings = {"time": "time_embedding", **({"added": "add_embedding"} if model.pooled_channels else {})}
    for ours, theirs in embeddings.items():
        entries += layer(f"{ours}/dense_0", f"{theirs}.linear_1", DENSE)
        entries += layer(f"{ours}/dense_1", f"{theirs}.linear_2", DENSE)
    widths, depths = widths_of(model.channels, model.channel_mult), model.transformer_depth
    for place in places(model.channels, widths, model.num_res_blocks, [depth > 0 for depth in depths], DIFFUSERS):
        if place.kind == "block":
            entries += residual_block(place.ours, place.theirs, is_wider=place.is_wider)
        elif place.kind == "attention":
            depth = model.middle_depth if place.level is None else depths[place.level]
            entries += transformer(place.ours, place.theirs, depth, projection)
        else:
            entries += layer(place.ours, place.theirs, CONV)
    return entries


def transformer(ours: str, theirs: str, depth: int, projection: Layout) -> list[Entry]:
    """A transformer over pixels; depth 0 is none."""
    if depth == 0:
        return []
    entries = [*norm(f"{ours}/norm", f"{theirs}.norm"), *layer(f"{ours}/proj_in", f"{theirs}.proj_in", projection)]
    for i in range(depth):
        here, there = f"{ours}/block_{i}", f"{theirs}.transformer_blocks.{i}"
        for n in range(3):
            entries += norm(f"{here}/norm_{n}", f"{there}.norm{n + 1}")
        for part, attn in (("self_attention", "attn1"), ("cross_attention", "attn2")):
            entries += attention(f"{here}/{part}", f"{there}.{attn}", TO_QKV, qkv_bias=False)
        entries += layer(f"{here}/perceptron/dense_0", f"{there}.ff.net.0.proj", DENSE)
        entries += layer(f"{here}/perceptron/dense_1", f"{there}.ff.net.2", DENSE)
    return entries + layer(f"{ours}/proj_out", f"{theirs}.proj_out", projection)


def _a_level(value: Any, levels: int, key: str) -> tuple[int, ...]:
    """A key that has one number, or one for each level."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    if len(values) != levels or not all(isinstance(v, int) for v in values):
        raise unsupported(NAME, key, value, f"a whole number, or {levels} of them")
    return values


def _one(value: Any, key: str) -> int:
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) != 1 or None in values:
        raise unsupported(NAME, key, value, "one number")
    return values.pop()
