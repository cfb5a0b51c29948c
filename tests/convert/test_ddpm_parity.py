"""DDPM's U-Net beside diffusers' UNet2DModel with the same weights, and its files there and back."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert import ddpm
from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

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


CONFIGS = {
    "two heads": config(16, (16, 32, 32), (0, 1, 0), 2, attention_head_dim=16, norm_num_groups=8, **PAPER_S),
    "digits": config(8, (24, 48), (0, 1), 1, attention_head_dim=None, norm_num_groups=8, **PAPER_S),
    "cifar10": config(32, (128, 256, 256, 256), (0, 1, 0, 0), 2, attention_head_dim=None, **PAPER_S),
    # diffusers' own defaults, on a side that is no power of 2, with heads of 8 at levels of several widths.
    "diffusers": config(24, (16, 24, 48), (1, 0, 1), 1, norm_num_groups=8, in_channels=2, out_channels=5),
    "labels": config(8, (16, 32), (0, 0), 3, norm_num_groups=4, attention_head_dim=4, num_class_embeds=7, freq_shift=1),
}


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


def shapes_of(model, size, in_channels):
    x_t = jnp.zeros((1, size, size, in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), x_t, jnp.zeros(1))["params"]


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    """(their module, our model, our parameters of their weights, x_t, t, labels)."""
    theirs = drawn(diffusers.UNet2DModel(**CONFIGS[request.param]))
    ours = ddpm.model_of(theirs.config)
    size, channels = theirs.config.sample_size, theirs.config.in_channels
    params = params_of(ddpm.table(ours, size), held(arrays(theirs)), shapes_of(ours, size, channels))
    x_t = np.random.default_rng(0).standard_normal((2, size, size, channels), np.float32)
    labels = np.array([6, 2]) if theirs.config.num_class_embeds else None
    return theirs, ours, params, x_t, np.array([3, 871]), labels


def their_answer(theirs, x_t, t, labels, **options):
    """[b h w c], and the images that it was made of."""
    images = torch.tensor(x_t.transpose(0, 3, 1, 2), **options)
    labels = None if labels is None else torch.tensor(labels)
    return theirs(images, torch.tensor(t), labels).sample.permute(0, 2, 3, 1), images


def context(labels):
    return {} if labels is None else {"label": jnp.asarray(labels)}


def error(answer, expected):
    """The largest, by the largest number."""
    return np.abs(np.asarray(answer) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()


def test_the_same_weights_give_the_same_answer(pair):
    theirs, ours, params, x_t, t, labels = pair
    with torch.no_grad():
        expected = their_answer(theirs, x_t, t, labels)[0].numpy()
    answer = jax.jit(ours.apply)({"params": params}, x_t, t, context(labels))
    assert error(answer, expected) < 1e-4


def test_the_same_weights_give_the_same_gradients(pair):
    theirs, ours, params, x_t, t, labels = pair
    if theirs.config.norm_eps == 1e-6 and theirs.config.sample_size > 8:
        pytest.skip("the same layers as the others'")
    weights = np.random.default_rng(1).standard_normal((*x_t.shape[:3], ours.out_channels), np.float32)
    made, images = their_answer(theirs, x_t, t, labels, requires_grad=True)
    theirs.zero_grad()
    (made * torch.tensor(weights)).sum().backward()

    def loss(params, x_t):
        return (ours.apply({"params": params}, x_t, t, context(labels)) * weights).sum()

    of_params, of_x_t = jax.jit(jax.grad(loss, (0, 1)))(params, jnp.asarray(x_t))
    assert error(of_x_t, images.grad.permute(0, 2, 3, 1)) < 1e-4
    written = dict(tensors_of(ddpm.table(ours, x_t.shape[1]), of_params))
    # A key's bias has no gradient, and both print their rounding: errors are by the largest number of any array.
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for name, parameter in theirs.named_parameters():
        assert np.abs(written[name] - parameter.grad.numpy()).max() < 1e-4 * largest, name
        if not name.endswith("to_k.bias"):
            scale = np.abs(parameter.grad.numpy()).max()
            assert np.abs(written[name] - parameter.grad.numpy()).max() < 1e-3 * scale, name


def test_bfloat16_answers_are_close(pair):
    theirs, ours, params, x_t, t, labels = pair
    with torch.no_grad():
        expected = their_answer(theirs, x_t, t, labels)[0].numpy()
    answer = jax.jit(ours.clone(dtype=jnp.bfloat16).apply)({"params": params}, x_t, t, context(labels))
    assert 0 < error(answer, expected) < 2e-2


def test_there_and_back_every_tensor_is_the_same(pair):
    theirs, ours, params, x_t, *_ = pair
    written = dict(tensors_of(ddpm.table(ours, x_t.shape[1]), params))
    assert set(written) == set(arrays(theirs))
    for name, array in arrays(theirs).items():
        np.testing.assert_array_equal(written[name], array, strict=True)


def test_there_and_back_the_config_is_the_same(pair):
    theirs, ours, _, x_t, *_ = pair
    written = ddpm.config_of(ours, sample_size=x_t.shape[1], in_channels=x_t.shape[-1])
    read = diffusers.UNet2DModel.from_config(written)
    assert ddpm.model_of(written) == ours
    ours_to_say = {"_class_name", "_diffusers_version", "_use_default_values", "_name_or_path"}
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    for key in set(theirs.config) - ours_to_say:
        assert plain(read.config[key]) == plain(theirs.config[key]), key


def test_the_paper_s_config_is_our_default():
    assert ddpm.model_of(CONFIGS["cifar10"]) == UNet()


@pytest.mark.parametrize("name", ["diffusers", "digits"])
def test_attention_s_old_names_are_read(name):
    theirs = drawn(diffusers.UNet2DModel(**CONFIGS[name]))
    new = arrays(theirs)
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, array in new.items():
        for now, before in old_names.items():
            key = key.replace(f".{now}.", f".{before}.")
        old[key] = array
    assert len(set(old) - set(new)) > 8
    assert {key: tensor.read().sum() for key, tensor in ddpm.as_now(held(old)).items()} == {
        key: array.sum() for key, array in new.items()
    }
    assert set(ddpm.as_now(held(new))) == set(new)


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


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_the_first_copies_files_are_read_and_written(wrapper):
    theirs = drawn(diffusers.UNet2DModel(**config(24, (32, 64, 64), (0, 1, 0), 2, attention_head_dim=None, **PAPER_S)))
    original = as_original(theirs)
    assert "down.1.attn.0.q.weight" in original and "up.2.upsample.conv.bias" in original
    tensors = ddpm.without_wrapper(held({wrapper + key: array for key, array in original.items()}))
    model = ddpm.model_of_tensors(tensors, 24)
    assert model == UNet(channels=32, channel_mult=(1, 2, 2), attention_resolutions=(12,))
    assert model == ddpm.model_of(theirs.config)
    params = params_of(ddpm.original_table(model, 24), tensors, shapes_of(model, 24, 3))
    x_t, t = np.random.default_rng(0).standard_normal((1, 24, 24, 3), np.float32), np.array([77])
    with torch.no_grad():
        expected = their_answer(theirs, x_t, t, None)[0].numpy()
    assert error(jax.jit(model.apply)({"params": params}, x_t, t), expected) < 1e-4
    written = dict(tensors_of(ddpm.original_table(model, 24), params))
    assert set(written) == set(original)
    for name, array in original.items():
        np.testing.assert_array_equal(written[name], array, strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "mish"}, "act_fn='mish' is not supported: what is, is 'silu', 'swish'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"add_attention": False}, "add_attention=False"),
        ({"attn_norm_num_groups": 3}, "attn_norm_num_groups=3 .* norm_num_groups, 8"),
        ({"attention_head_dim": 5}, "attention_head_dim=5 .* a divisor of"),
        ({"flip_sin_to_cos": False, "freq_shift": 0}, "flip_sin_to_cos=False and freq_shift=0"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types=.* down_block_types reversed"),
        ({"down_block_types": ["SkipDownBlock2D"] * 3}, "SkipDownBlock2D"),
        ({"sample_size": None}, "no sample_size"),
        ({"sample_size": 10}, "images of 10 pixels don't fit 3 levels: give a multiple of 4"),
        ({"num_class_embeds": 0}, "num_class_embeds=0 .* at least 1"),
        ({"time_embedding_dim": 7}, "time_embedding_dim=7 .* 64, 4 times the channels"),
    ],
)
def test_what_is_not_supported_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ddpm.model_of({**CONFIGS["diffusers"], **changes})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (UNet(num_heads=4, attention_resolutions=(16, 32)), r"num_heads=4 at levels of \[128, 256\] channels"),
        (UNet(reads_x_0=True), "reads_x_0=True"),
    ],
)
def test_what_diffusers_has_not_is_not_written(model, message):
    with pytest.raises(InputError, match=message):
        ddpm.config_of(model, sample_size=32, in_channels=3)


@pytest.mark.parametrize("changes", [{"num_classes": 3}, {"epsilon": 1e-5}, {"num_heads": 2}, {"head_channels": 8}])
def test_what_the_first_copies_have_not_is_not_written(changes):
    (field,) = changes
    with pytest.raises(InputError, match=f"have no {field}={changes[field]}"):
        ddpm.original_table(UNet(**changes), 32)


def test_several_heads_of_one_width_are_written_as_their_channels():
    model = UNet(num_heads=4, attention_resolutions=(16, 8))
    written = ddpm.config_of(model, sample_size=32, in_channels=3)
    assert written["attention_head_dim"] == 64
    assert ddpm.model_of(written) == model.clone(num_heads=1, head_channels=64, attention_resolutions=(16, 8))
