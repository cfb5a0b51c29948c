"""Stable Diffusion's U-Net and autoencoders beside diffusers' with the same random weights, converted."""

import copy

import jax
import numpy as np
import peer
import pytest
from small_unet import SMALL

from marble.convert import autoencoder_kl, conditional_unet, taesd
from marble.convert.blocks import OLD_ATTENTION

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

WITH_SIZES = dict(
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=1550
)
UNETS = {
    "sd1": (SMALL, 24),
    "several heads, linear, deep": (
        SMALL | dict(attention_head_dim=(1, 8), use_linear_projection=True, transformer_layers_per_block=(2, 3)),
        16,
    ),
    "sdxl": (SMALL | WITH_SIZES | dict(use_linear_projection=True, transformer_layers_per_block=(1, 2)), 8),
    "inpainting": (SMALL | dict(in_channels=9, layers_per_block=3), 8),
    "one full-size block": (
        dict(
            SMALL,
            block_out_channels=(320,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            norm_num_groups=32,
            cross_attention_dim=768,
            attention_head_dim=8,
        ),
        8,
    ),
}


def unet_pair(config, size):
    theirs = peer.shaken(diffusers.UNet2DConditionModel(**config))
    ours = conditional_unet.model_of(theirs.config)
    draw = np.random.default_rng(0).standard_normal
    x_t = draw((2, size, size, 4)).astype(np.float32)
    t = np.array([3, 871])
    context = {"text": draw((2, 7, config["cross_attention_dim"])).astype(np.float32)}
    options = {"encoder_hidden_states": torch.tensor(context["text"])}
    if "addition_embed_type" in config:
        context |= {"pooled_text": draw((2, 14)).astype(np.float32), "size": np.float32([[24, 32, 0, 3, 16, 16]] * 2)}
        added = {"text_embeds": torch.tensor(context["pooled_text"]), "time_ids": torch.tensor(context["size"])}
        options["added_cond_kwargs"] = added
    x_in = x_t
    if config.get("in_channels", 4) == 9:
        context["concat"] = draw((2, size, size, 5)).astype(np.float32)
        x_in = np.concatenate([x_t, context["concat"]], -1)
    linear = conditional_unet.uses_linear_projection(theirs.config)
    table = conditional_unet.table(ours, linear=linear)
    params = peer.converted(table, peer.arrays_of(theirs), peer.shapes_of(ours, x_t, t, context))
    return ours, params, (x_t, t, context), theirs, (peer.nchw(x_in), torch.tensor(t), options)


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_says_the_same(name):
    ours, params, inputs, theirs, (x_in, t, options) = unet_pair(*UNETS[name])
    with torch.no_grad():
        expected = peer.nhwc(theirs(x_in, t, **options).sample)
    peer.assert_near(peer.run(ours, params, *inputs), expected)
    with torch.no_grad():
        rounded = copy.deepcopy(theirs).bfloat16()(x_in.bfloat16(), t, **peer.half(options)).sample
    peer.assert_near_in_bfloat16(
        peer.run(peer.in_bfloat16(ours), params, *inputs), peer.nhwc(rounded.float()), expected
    )
    linear = conditional_unet.uses_linear_projection(theirs.config)
    config = conditional_unet.config_of(ours, sample_size=24, linear=linear)
    again = diffusers.UNet2DConditionModel.from_config(config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    again.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        np.testing.assert_array_equal(peer.nhwc(again(x_in, t, **options).sample), expected)
    assert conditional_unet.model_of(config) == ours


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_gradients_of_a_unet_are_the_same(name):
    ours, params, inputs, theirs, (x_in, t, options) = unet_pair(*UNETS[name])
    weights = np.random.default_rng(1).standard_normal(inputs[0].shape).astype(np.float32)
    (theirs(x_in, t, **options).sample * peer.nchw(weights)).sum().backward()
    expected = {k: v.grad.numpy() for k, v in theirs.named_parameters()}
    found = jax.jit(jax.grad(lambda p: (ours.apply({"params": p}, *inputs) * weights).sum()))(params)
    linear = conditional_unet.uses_linear_projection(theirs.config)
    largest = max(np.abs(g).max() for g in expected.values())
    for key, gradient in peer.tensors_of(conditional_unet.table(ours, linear=linear), found):
        assert np.abs(gradient - expected[key]).max() <= 1e-4 * largest, key


AUTOENCODERS = {
    "two levels": (dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, latent_channels=3), 24),
    "uneven": (dict(block_out_channels=(8, 8, 24), layers_per_block=2, norm_num_groups=4, use_quant_conv=False), 16),
    "one full-size block": (dict(block_out_channels=(128,), layers_per_block=1), 16),
}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_says_the_same(name):
    config, size = AUTOENCODERS[name]
    levels = len(config["block_out_channels"])
    kinds = dict(down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels)
    kinds["use_post_quant_conv"] = config.get("use_quant_conv", True)
    theirs = peer.shaken(diffusers.AutoencoderKL(**config, **kinds))
    ours = autoencoder_kl.model_of(theirs.config)
    images = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    arrays = peer.arrays_of(theirs)
    params = peer.converted(autoencoder_kl.table(ours), arrays, peer.shapes_of(ours, images))
    with torch.no_grad():
        q = theirs.encode(peer.nchw(images)).latent_dist
        expected = peer.nhwc(theirs.decode(q.mean).sample)
    mean, log_variance = peer.run(ours, params, images, method="encode")
    peer.assert_near(mean, peer.nhwc(q.mean))
    peer.assert_near(log_variance, peer.nhwc(q.logvar))
    peer.assert_near(peer.run(ours, params, peer.nhwc(q.mean), method="decode"), expected)
    with torch.no_grad():
        rounded = copy.deepcopy(theirs).bfloat16().decode(q.mean.bfloat16()).sample
    own = peer.run(peer.in_bfloat16(ours), params, peer.nhwc(q.mean), method="decode")
    peer.assert_near_in_bfloat16(own, peer.nhwc(rounded.float()), expected)
    written = autoencoder_kl.config_of(ours, scale=0.5)
    assert autoencoder_kl.model_of(written) == ours and autoencoder_kl.scale_of(written) == 0.5
    diffusers.AutoencoderKL.from_config(written).load_state_dict(theirs.state_dict())
    old = {new: old for old, new in OLD_ATTENTION.items()}
    renamed = {}
    for key, array in arrays.items():
        for new, name_then in old.items():
            if ".attentions.0." in key:
                key = key.replace(new, name_then)
        renamed[key] = array
    then = peer.converted(autoencoder_kl.table(ours), renamed, peer.shapes_of(ours, images), autoencoder_kl.as_now)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), then, params))


@pytest.mark.parametrize("blocks", [(1, 3, 3, 3), (2, 1)])
def test_the_tiny_autoencoder_says_the_same(blocks):
    widths = (16,) * len(blocks)
    theirs = peer.shaken(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=tuple(reversed(blocks)),
        )
    )
    ours = taesd.model_of(theirs.config)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 24, 16, 3)).astype(np.float32)
    params = peer.converted(taesd.table(ours), peer.arrays_of(theirs), peer.shapes_of(ours, images))
    with torch.no_grad():
        latents = theirs.encode(peer.nchw(images)).latents
        expected = peer.nhwc(theirs.decode(latents).sample)
    peer.assert_near(peer.run(ours, params, images, method="encode"), peer.nhwc(latents))
    peer.assert_near(peer.run(ours, params, peer.nhwc(latents), method="decode"), expected)
    written = taesd.config_of(ours)
    assert taesd.model_of(written) == ours
    diffusers.AutoencoderTiny.from_config(written).load_state_dict(theirs.state_dict())
