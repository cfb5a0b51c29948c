"""Small U-Nets of diffusers, as DDPM has them, with drawn weights; importing it skips a test without diffusers."""

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

PAPER_S = dict(norm_eps=1e-6, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0)
"""What differs between DDPM and diffusers' defaults."""


def config(size, widths, attends, layers, **more):
    return dict(
        sample_size=size,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        **more,
    )


def drawn(module, seed=0):
    """The module with every weight drawn anew, so that what starts at 0 or at 1 matters too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            fan = weight[0].numel() if weight.ndim > 1 else 25
            is_scale = weight.ndim == 1 and "norm" in name and name.endswith("weight")
            weight.copy_(torch.randn_like(weight) / fan**0.5 + is_scale)
    return module.eval()


def arrays(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def original_name(name, levels):
    """What the first PyTorch copies call an array of diffusers' name."""
    top = {"time_embedding.linear_1": "temb.dense.0", "time_embedding.linear_2": "temb.dense.1"}
    for theirs, original in (top | {"conv_norm_out": "norm_out"}).items():
        name = name.replace(theirs, original)
    name = name.replace("time_emb_proj", "temb_proj").replace("conv_shortcut", "nin_shortcut")
    for theirs, original in {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }.items():
        name = re.sub(rf"(attentions\.\d+)\.{theirs}\.", rf"\1.{original}.", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = (
        name.replace("down_blocks", "down").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    )
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    return name.replace("resnets", "block").replace("attentions", "attn")


def as_original(module):
    """Its arrays as the first copies hold them, 1x1 convolutions in the attention."""
    renamed = {original_name(k, len(module.config.block_out_channels)): a for k, a in arrays(module).items()}
    is_projection = re.compile(r".*attn[_.]\d+\.(q|k|v|proj_out)\.weight")
    return {k: a[:, :, None, None] if is_projection.fullmatch(k) else a for k, a in renamed.items()}
