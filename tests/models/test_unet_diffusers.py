"""The U-Net beside diffusers' UNet2DModel with the same weights. Skipped where PyTorch or diffusers is missing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from marble.models import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

LAYERS = {
    "norm1": "norm_0",
    "conv1": "conv_0",
    "time_emb_proj": "emb",
    "norm2": "norm_1",
    "conv2": "conv_1",
    "conv_shortcut": "shortcut",
    "group_norm": "norm",
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj",
    "conv": "",
    "time_embedding.linear_1": "time/dense_0",
    "time_embedding.linear_2": "time/dense_1",
    "conv_norm_out": "norm_out",
}


def path_of(key, num_levels):
    """The path of our parameter that diffusers calls key."""
    name, leaf = key.rsplit(".", 1)
    block = re.match(r"(down|up|mid)_blocks?\.(?:(\d)\.)?(\w+)\.(\d)\.(.+)", name)
    if block:
        side, level, part, i, layer = block.groups()
        level = int(level or 0) if side == "down" else num_levels - 1 - int(level or 0)
        place = "middle" if side == "mid" else f"{side}_{level}"
        name = LAYERS[layer] and f"/{LAYERS[layer]}"
        match part:
            case "resnets":
                name = f"{place}_block_{i}{name}"
            case "attentions":
                name = "middle_attention" + name if side == "mid" else f"{place}_attention_{i}{name}"
            case "downsamplers":
                name = f"down_{level + 1}_sample"
            case "upsamplers":
                name = f"up_{level}_sample"
    else:
        name = LAYERS.get(name, name)
    return f"{name}/{'bias' if leaf == 'bias' else 'scale' if 'norm' in name else 'kernel'}"


def converted(weights, num_levels):
    """Our parameters from diffusers' state_dict."""
    params = {}
    for key, value in weights.items():
        value = value.numpy()
        if value.ndim == 4:
            value = value[:, :, 0, 0].T if value.shape[-1] == 1 else value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            value = value.T
        params[path_of(key, num_levels)] = jnp.asarray(value)
    return traverse_util.unflatten_dict(params, sep="/")


def pair(size, channels, channel_mult, num_res_blocks, attention, num_heads, num_groups):
    """Our network and diffusers', with attention at one resolution."""
    ours = UNet(3, channels, channel_mult, num_res_blocks, (attention,), num_heads, num_groups=num_groups)
    widths = tuple(channels * multiple for multiple in channel_mult)
    attends = [size // 2**level == attention for level in range(len(widths))]
    theirs = diffusers.UNet2DModel(
        sample_size=size,
        block_out_channels=widths,
        layers_per_block=num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        attention_head_dim=widths[-1] // num_heads,  # channels a head; the attention here is at the last width
        norm_num_groups=num_groups,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
    )
    return ours, theirs.eval()


@pytest.mark.parametrize(
    "architecture",
    [(16, 16, (1, 2, 2), 2, 8, 2, 8), (8, 24, (1, 2), 1, 4, 1, 8), (32, 128, (1, 2, 2, 2), 2, 16, 1, 32)],
    ids=["two heads", "digits", "cifar10"],
)
def test_the_same_weights_give_the_same_answer(architecture):
    ours, theirs = pair(*architecture)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    size = architecture[0]
    x_t = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    t = np.array([3, 871])
    params = converted(theirs.state_dict(), len(architecture[2]))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x_t, t)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    with torch.no_grad():
        expected = theirs(torch.tensor(x_t.transpose(0, 3, 1, 2)), torch.tensor(t)).sample.numpy()
    answer = jax.jit(ours.apply)({"params": params}, x_t, t)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(answer, expected.transpose(0, 2, 3, 1), atol=1e-4)
