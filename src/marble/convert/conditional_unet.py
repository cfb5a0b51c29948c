"""The U-Net of Stable Diffusion: its config and its arrays by diffusers' names (``UNet2DConditionModel``)."""

from collections.abc import Mapping
from typing import Any

from marble.convert.names import CONV, DENSE, POINTWISE, Entry, Layout, layer, norm
from marble.convert.published import check_blocks, check_supported, multiples, needed, widths_of
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
    for key, kinds in {
        "down_block_types": (WITH_TEXT[0], PLAIN[0]),
        "up_block_types": (WITH_TEXT[1], PLAIN[1]),
    }.items():
        check_blocks(config, NAME, key, kinds)
    channels, channel_mult = multiples(needed(config, NAME, "block_out_channels"), NAME)
    levels = len(channel_mult)
    has_text = [block == WITH_TEXT[0] for block in needed(config, NAME, "down_block_types")]
    if [block == WITH_TEXT[1] for block in reversed(needed(config, NAME, "up_block_types"))] != has_text:
        raise InputError(f"{NAME} whose up_block_types are not its down_block_types reversed is not supported")
    depths = _a_level(config.get("transformer_layers_per_block", 1), levels, "transformer_layers_per_block")
    # The key has the name of something else by an old mistake of diffusers: it counts the heads.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    blocks = _a_level(config.get("layers_per_block", 2), levels, "layers_per_block")
    if len(set(blocks)) > 1:
        raise InputError(f"{NAME} with layers_per_block={list(blocks)} is not supported: what is, is one number")
    pooled = None
    if config.get("addition_embed_type"):
        pooled = needed(config, NAME, "projection_class_embeddings_input_dim") - 6 * SIZE_CHANNELS
    read, made = config.get("in_channels", 4), config.get("out_channels", 4)
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
    widths, levels = widths_of(model.channels, model.channel_mult), len(model.channel_mult)
    skips = [model.channels]
    width = model.channels
    for level in range(levels):
        theirs, depth = f"down_blocks.{level}", model.transformer_depth[level]
        if level > 0:
            entries += layer(f"down_{level}_sample", f"down_blocks.{level - 1}.downsamplers.0.conv", CONV)
            skips.append(width)
        for i in range(model.num_res_blocks):
            entries += block(f"down_{level}_block_{i}", f"{theirs}.resnets.{i}", is_wider=width != widths[level])
            entries += transformer(f"down_{level}_attention_{i}", f"{theirs}.attentions.{i}", depth, projection)
            width = widths[level]
            skips.append(width)
    for i in (0, 1):
        entries += block(f"middle_block_{i}", f"mid_block.resnets.{i}", is_wider=False)
    entries += transformer("middle_attention", "mid_block.attentions.0", model.middle_depth, projection)
    for level in reversed(range(levels)):
        theirs, depth = f"up_blocks.{levels - 1 - level}", model.transformer_depth[level]
        for i in range(model.num_res_blocks + 1):
            is_wider = width + skips.pop() != widths[level]
            entries += block(f"up_{level}_block_{i}", f"{theirs}.resnets.{i}", is_wider=is_wider)
            entries += transformer(f"up_{level}_attention_{i}", f"{theirs}.attentions.{i}", depth, projection)
            width = widths[level]
        if level > 0:
            entries += layer(f"up_{level}_sample", f"{theirs}.upsamplers.0.conv", CONV)
    return entries


def block(ours: str, theirs: str, *, is_wider: bool, has_time: bool = True) -> list[Entry]:
    """A residual block; is_wider where the number of channels changes."""
    entries = [*norm(f"{ours}/norm_0", f"{theirs}.norm1"), *layer(f"{ours}/conv_0", f"{theirs}.conv1", CONV)]
    entries += layer(f"{ours}/emb", f"{theirs}.time_emb_proj", DENSE) if has_time else []
    entries += [*norm(f"{ours}/norm_1", f"{theirs}.norm2"), *layer(f"{ours}/conv_1", f"{theirs}.conv2", CONV)]
    return entries + (layer(f"{ours}/shortcut", f"{theirs}.conv_shortcut", POINTWISE) if is_wider else [])


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
            for name, to in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
                entries += layer(f"{here}/{part}/{name}", f"{there}.{attn}.{to}", DENSE, use_bias=False)
            entries += layer(f"{here}/{part}/proj", f"{there}.{attn}.to_out.0", DENSE)
        entries += layer(f"{here}/perceptron/dense_0", f"{there}.ff.net.0.proj", DENSE)
        entries += layer(f"{here}/perceptron/dense_1", f"{there}.ff.net.2", DENSE)
    return entries + layer(f"{ours}/proj_out", f"{theirs}.proj_out", projection)


def _a_level(value: Any, levels: int, key: str) -> tuple[int, ...]:
    """A key that has one number, or one for each level."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    if len(values) != levels or not all(isinstance(v, int) for v in values):
        raise InputError(
            f"{NAME} with {key}={value!r} is not supported: what is, is a whole number, or {levels} of them"
        )
    return values


def _one(value: Any, key: str) -> int:
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) != 1:
        raise InputError(f"{NAME} with {key}={value!r} is not supported: what is, is one number")
    return values.pop()
