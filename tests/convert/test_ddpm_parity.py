"""DDPM's U-Net beside diffusers' UNet2DModel with the same weights, and its files there and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.ddpm_pair import PAPER_S, arrays, as_original, config, drawn

from marble.convert import ddpm
from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIGS = {
    "two heads": config(16, (16, 32, 32), (0, 1, 0), 2, attention_head_dim=16, norm_num_groups=8, **PAPER_S),
    "digits": config(8, (24, 48), (0, 1), 1, attention_head_dim=None, norm_num_groups=8, **PAPER_S),
    "cifar10": config(32, (128, 256, 256, 256), (0, 1, 0, 0), 2, attention_head_dim=None, **PAPER_S),
    # diffusers' own defaults, on a side that is no power of 2, with heads of 8 at levels of several widths.
    "diffusers": config(24, (16, 24, 48), (1, 0, 1), 1, norm_num_groups=8, in_channels=2, out_channels=5),
    "labels": config(8, (16, 32), (0, 0), 3, norm_num_groups=4, attention_head_dim=4, num_class_embeds=7, freq_shift=1),
}


def shapes_of(model, size, in_channels):
    x_t = jnp.zeros((1, size, size, in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), x_t, jnp.zeros(1))["params"]


@pytest.fixture(scope="module")
def pair_of():
    """pair_of(name): (their module, our model, our parameters of their weights, x_t, t, labels), made once."""

    @functools.cache
    def made(name):
        theirs = drawn(diffusers.UNet2DModel(**CONFIGS[name]))
        ours = ddpm.model_of(theirs.config)
        size, channels = theirs.config.sample_size, theirs.config.in_channels
        params = params_of(ddpm.table(ours, size), held(arrays(theirs)), shapes_of(ours, size, channels))
        x_t = np.random.default_rng(0).standard_normal((2, size, size, channels), np.float32)
        labels = np.array([6, 2]) if theirs.config.num_class_embeds else None
        return theirs, ours, params, x_t, np.array([3, 871]), labels

    return made


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


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_weights_give_the_same_answer(pair_of, name):
    theirs, ours, params, x_t, t, labels = pair_of(name)
    with torch.no_grad():
        expected = their_answer(theirs, x_t, t, labels)[0].numpy()
    answer = jax.jit(ours.apply)({"params": params}, x_t, t, context(labels))
    assert error(answer, expected) < 1e-4


# The layers of the others are among these.
@pytest.mark.parametrize("name", ["digits", "diffusers", "labels"])
def test_the_same_weights_give_the_same_gradients(pair_of, name):
    theirs, ours, params, x_t, t, labels = pair_of(name)
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


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_answers_are_close(pair_of, name):
    theirs, ours, params, x_t, t, labels = pair_of(name)
    with torch.no_grad():
        expected = their_answer(theirs, x_t, t, labels)[0].numpy()
    answer = jax.jit(ours.clone(dtype=jnp.bfloat16).apply)({"params": params}, x_t, t, context(labels))
    assert 0 < error(answer, expected) < 2e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_every_tensor_is_the_same(pair_of, name):
    theirs, ours, params, x_t, *_ = pair_of(name)
    written = dict(tensors_of(ddpm.table(ours, x_t.shape[1]), params))
    assert set(written) == set(arrays(theirs))
    for name, array in arrays(theirs).items():
        np.testing.assert_array_equal(written[name], array, strict=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_the_config_is_the_same(pair_of, name):
    theirs, ours, _, x_t, *_ = pair_of(name)
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
        (UNet(patch_size=2), "patch_size=2"),
        (UNet(reads_low_res=True), "reads_low_res=True"),
        (UNet(reads_s=True), "reads_s=True"),
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
