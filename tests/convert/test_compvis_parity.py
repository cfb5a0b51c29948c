"""Stable Diffusion by CompVis' names, beside diffusers' own reading of such files."""

import logging

import numpy as np
import peer
import pytest

from marble.convert import compvis
from marble.convert.folder import open_part, params_of_part, write_tensors
from marble.convert.tensors import Tensor, held
from marble.errors import InputError

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
pytestmark = pytest.mark.parity

LEVELS = dict(block_out_channels=(64, 128), norm_num_groups=32)
UNET = dict(**LEVELS, sample_size=8, layers_per_block=2)
PLAIN_LAST = dict(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
)
PLAIN_FIRST = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")
)
UNETS = {
    "1": dict(UNET, **PLAIN_LAST, cross_attention_dim=768, attention_head_dim=8),
    "1, inpainting": dict(UNET, **PLAIN_LAST, cross_attention_dim=768, attention_head_dim=8, in_channels=9),
    "2": dict(UNET, **PLAIN_LAST, cross_attention_dim=1024, attention_head_dim=(1, 2), use_linear_projection=True),
    "xl": dict(
        UNET,
        **PLAIN_FIRST,
        cross_attention_dim=2048,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1536 + 24,
    ),
}
VAE = dict(
    **LEVELS,
    layers_per_block=2,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
)
TEXT = dict(vocab_size=99, hidden_size=64, intermediate_size=96, num_attention_heads=1, num_hidden_layers=2)


def open_clip(width, layers, projection=None):
    """Random arrays by OpenCLIP's names."""
    draw = lambda *shape: np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)  # noqa: E731
    made = {"token_embedding.weight": draw(99, width), "positional_embedding": draw(77, width)}
    made |= {"logit_scale": np.float32(1), "ln_final.weight": draw(width), "ln_final.bias": draw(width)}
    made["text_projection"] = draw(width, projection or width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        for norm in ("ln_1", "ln_2"):
            made |= {f"{block}{norm}.weight": draw(width), f"{block}{norm}.bias": draw(width)}
        made |= {f"{block}attn.in_proj_weight": draw(3 * width, width), f"{block}attn.in_proj_bias": draw(3 * width)}
        layers_of = {"attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
        for name, (out, read) in layers_of.items():
            made |= {f"{block}{name}.weight": draw(out, read), f"{block}{name}.bias": draw(out)}
    return made


def stable(name):
    """(diffusers' networks, the file that CompVis' names make of them)."""
    version = name.partition(",")[0]
    theirs = {
        "unet": peer.shaken(diffusers.UNet2DConditionModel(**UNETS[name])),
        "vae": peer.shaken(diffusers.AutoencoderKL(**VAE)),
    }
    if version in ("1", "xl"):
        theirs["text_encoder"] = peer.shaken(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))
    parts = {
        part: held(peer.arrays_of(network, without=("text_model.embeddings.position_ids",)))
        for part, network in theirs.items()
    }
    configs = {part: dict(network.config) for part, network in theirs.items() if part != "text_encoder"}
    texts = parts.pop("text_encoder", {})
    file = {n: tensor.read() for n, tensor in compvis.to_compvis(parts, configs)}
    prefixes = compvis.TEXTS[version]
    now = lambda n: n if n.startswith("text_model.") else f"text_model.{n}"  # noqa: E731
    file |= {prefixes["text_encoder"] + now(n): tensor.read() for n, tensor in texts.items()}
    opened = {"2": ("text_encoder", open_clip(64, 3)), "xl": ("text_encoder_2", open_clip(64, 2, 24))}
    if version in opened:
        part, arrays = opened[version]
        file |= {prefixes[part] + n: array for n, array in arrays.items()}
    file |= {"betas": np.zeros(1000, np.float32), "model_ema.decay": np.float32(0.9999), "model_ema.x": np.zeros(2)}
    return theirs, file


def as_tensors(arrays):
    return {name: torch.tensor(array) for name, array in arrays.items()}


@pytest.mark.parametrize("name", UNETS)
def test_the_names_are_those_that_diffusers_reads(name):
    theirs, file = stable(name)
    given = as_tensors(file)
    found = {
        "unet": single_file.convert_ldm_unet_checkpoint(dict(given), dict(theirs["unet"].config)),
        "vae": single_file.convert_ldm_vae_checkpoint(dict(given), dict(theirs["vae"].config)),
    }
    for part, state in found.items():
        expected = theirs[part].state_dict()
        assert set(state) == set(expected)
        for key, array in expected.items():
            assert torch.equal(state[key], array), key


@pytest.mark.parametrize("name", UNETS)
def test_a_file_becomes_folders_that_diffusers_opens(tmp_path, caplog, name):
    theirs, file = stable(name)
    torch.save({"state_dict": as_tensors(file), "global_step": 3}, tmp_path / "sd.ckpt")
    tensors = compvis.read(tmp_path / "sd.ckpt")
    version = name.partition(",")[0]
    assert compvis.version_of(tensors) == version
    prediction = "v_prediction" if version == "2" else None
    configs = compvis.configs_of(tensors, prediction_type=prediction)
    with caplog.at_level(logging.INFO):
        parts = compvis.parts_of(tensors, configs)
    assert "3 arrays are not read, 2 of them averages" in caplog.text
    assert set(parts) == set(configs) - {"scheduler"}
    for part in parts:
        write_tensors(tmp_path / part, configs[part], parts[part])
        params_of_part(open_part(tmp_path / part))  # as it should be, name by name
    for part, network in theirs.items():
        again = type(network).from_pretrained(tmp_path / part)
        expected = network.state_dict()
        assert set(again.state_dict()) == set(expected)
        for key, array in again.state_dict().items():
            assert torch.equal(array, expected[key]), key
    known = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet").config
    heads = theirs["unet"].config.attention_head_dim
    assert known.attention_head_dim == list(heads if isinstance(heads, tuple | list) else (heads, heads))
    assert configs["scheduler"]["prediction_type"] == (prediction or "epsilon")
    scheduler = getattr(diffusers, configs["scheduler"]["_class_name"]).from_config(configs["scheduler"])
    assert abs(float(scheduler.alphas_cumprod[-1]) - 0.004660098513) < 1e-6  # reference-values, section 4
    back = {part: parts[part] for part in ("unet", "vae", *(["text_encoder"] if version == "1" else []))}
    written = {n: tensor.read() for n, tensor in compvis.to_compvis(back, configs)}
    prefixes = (compvis.UNET, compvis.VAE, *(compvis.TEXTS["1"].values() if version == "1" else ()))
    assert set(written) == {n for n in file if n.startswith(prefixes)}
    for n, array in written.items():
        np.testing.assert_array_equal(array, file[n], err_msg=n)


def test_the_text_encoder_of_version_2_is_what_diffusers_reads():
    _, file = stable("2")
    tensors = held(file)
    configs = compvis.configs_of(tensors, prediction_type="epsilon")
    parts = compvis.parts_of(tensors, configs)
    assert configs["text_encoder"]["num_hidden_layers"] == 2  # of three in the file
    config = transformers.CLIPTextConfig(**configs["text_encoder"])
    theirs = transformers.CLIPTextModel(config)
    found = single_file.convert_open_clip_checkpoint(theirs, as_tensors(file), prefix="cond_stage_model.model.")
    ours = {n: tensor.read() for n, tensor in parts["text_encoder"].items()}
    expected = {n if n.startswith("text_model.") else f"text_model.{n}": a.numpy() for n, a in found.items()}
    expected = {n: a for n, a in expected.items() if n in ours or "text_projection" not in n}
    assert {n for n in expected if "layers.2." not in n} == set(ours)
    for n, array in ours.items():
        np.testing.assert_array_equal(array, expected[n], err_msg=n)


def empty(network):
    return {n: Tensor(tuple(a.shape), np.dtype("f4"), None) for n, a in network.state_dict().items()}


def test_full_sizes_are_told():
    # Shapes alone: reference-values, section 3.
    config = dict(cross_attention_dim=768, attention_head_dim=8)
    with torch.device("meta"):
        unet, vae = (
            diffusers.UNet2DConditionModel(**config),
            diffusers.AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
        )
    parts = {"unet": empty(unet), "vae": empty(vae)}
    file = dict(compvis.to_compvis(parts, {"unet": dict(unet.config), "vae": dict(vae.config)}))
    assert file["model.diffusion_model.output_blocks.5.2.conv.weight"].shape == (1280, 1280, 3, 3)
    assert file["first_stage_model.decoder.up.3.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert file["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    text = held(peer.arrays_of(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))))
    file |= {
        f"cond_stage_model.transformer.{n if n.startswith('text_') else 'text_model.' + n}": t for n, t in text.items()
    }
    configs = compvis.configs_of(file)
    for part, network in (("unet", unet), ("vae", vae)):
        with torch.device("meta"):
            again = type(network).from_config(configs[part])
        assert {n: a.shape for n, a in again.state_dict().items()} == {
            n: a.shape for n, a in network.state_dict().items()
        }
    assert configs["unet"]["sample_size"] == 64 and configs["vae"]["sample_size"] == 512


def test_what_is_refused():
    _, file = stable("2")
    tensors = held(file)
    with pytest.raises(InputError, match="sd.ckpt is Stable Diffusion 2.x, .* give prediction_type"):
        compvis.configs_of(tensors, source="sd.ckpt")
    with pytest.raises(InputError, match="'sample' must be epsilon or v_prediction"):
        compvis.configs_of(tensors, prediction_type="sample")
    with pytest.raises(InputError, match="has no text encoder cond_stage_model.model"):
        compvis.version_of({n: t for n, t in tensors.items() if not n.startswith("cond")})
    with pytest.raises(InputError, match="is no Stable Diffusion by CompVis' names"):
        compvis.version_of({n: t for n, t in tensors.items() if not n.startswith("model.")})
    refiner = {n: t.part(np.s_[:, : 1280 - 1024]) for n, t in tensors.items() if "attn2.to_k" in n}
    with pytest.raises(InputError, match="reads text of the width 256"):
        compvis.version_of(tensors | refiner)
    unclip = {compvis.UNET + "label_emb.0.0.weight": tensors[compvis.UNET + "time_embed.0.weight"]}
    with pytest.raises(InputError, match="not their unclip and upscaler models"):
        compvis.configs_of(tensors | unclip, prediction_type="epsilon")
    configs = compvis.configs_of(tensors, prediction_type="epsilon")
    parts = compvis.parts_of(tensors, configs)
    with pytest.raises(InputError, match="OpenCLIP"):
        dict(compvis.to_compvis(parts, configs))
    with pytest.raises(InputError, match="has no out.2.weight"):
        compvis.configs_of({n: t for n, t in tensors.items() if "out.2" not in n}, prediction_type="epsilon")
