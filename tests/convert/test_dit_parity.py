"""DiT beside diffusers' DiTTransformer2DModel with the same weights, and the files of both names there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert import dit
from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models.dit import DiT

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

CONFIGS = {
    "two heads": dict(num_attention_heads=2, attention_head_dim=12, num_layers=3, sample_size=24, patch_size=4),
    "one head of 8": dict(num_attention_heads=1, attention_head_dim=8, num_layers=2, sample_size=6, in_channels=3),
    "XL": dict(num_layers=1, sample_size=8, out_channels=8),
}
SMALL = {"num_embeds_ada_norm": 5}


def drawn(module):
    """The module with every weight drawn anew, so that what starts at 0 matters too; embeddings alike in all blocks."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn_like(weight) / (weight[0].numel() if weight.ndim > 1 else 25) ** 0.5)
        first = module.transformer_blocks[0].norm1.emb
        for block in module.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(first.state_dict())
    return module.eval()


def arrays(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def shapes_of(model, size, in_channels):
    x_t = jnp.zeros((1, size, size, in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), x_t, jnp.zeros(1))["params"]


def error(answer, expected):
    """The largest, by the largest number."""
    return np.abs(np.asarray(answer) - expected).max() / np.abs(expected).max()


def their_answer(theirs, x_t, t, labels):
    with torch.no_grad():
        images = torch.tensor(x_t.transpose(0, 3, 1, 2))
        return theirs(images, torch.tensor(t), torch.tensor(labels)).sample.permute(0, 2, 3, 1).numpy()


def read(theirs, ours):
    """Our parameters of diffusers' arrays."""
    tensors = dit.without_copies(held(arrays(theirs)), ours)
    return params_of(dit.table(ours), tensors, shapes_of(ours, theirs.config.sample_size, theirs.config.in_channels))


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    """(their module, our model, our parameters of their weights)."""
    theirs = drawn(diffusers.DiTTransformer2DModel(**SMALL, **CONFIGS[request.param]))
    ours = dit.model_of(theirs.config)
    return theirs, ours, read(theirs, ours)


def images(theirs, size=None):
    size = size or theirs.config.sample_size
    x_t = np.random.default_rng(0).standard_normal((2, size, size, theirs.config.in_channels), np.float32)
    return x_t, np.array([3, 871]), np.array([4, 5])  # 5 is the null class


def test_the_same_weights_give_the_same_answer(pair):
    theirs, ours, params = pair
    x_t, t, labels = images(theirs)
    answer = jax.jit(ours.apply)({"params": params}, x_t, t, {"label": jnp.asarray(labels)})
    assert error(answer, their_answer(theirs, x_t, t, labels)) < 1e-4


def test_images_of_another_size_have_the_same_positions(pair):
    theirs, ours, params = pair
    x_t, t, labels = images(theirs, theirs.config.sample_size * 3 // 2 // ours.patch_size * ours.patch_size)
    answer = jax.jit(ours.apply)({"params": params}, x_t, t, {"label": jnp.asarray(labels)})
    assert error(answer, their_answer(theirs, x_t, t, labels)) < 1e-4


def test_bfloat16_answers_are_close(pair):
    theirs, ours, params = pair
    x_t, t, labels = images(theirs)
    model = ours.clone(dtype=jnp.bfloat16, scan_blocks=True)
    answer = jax.jit(model.apply)({"params": params}, x_t, t, {"label": jnp.asarray(labels)})
    assert 0 < error(answer, their_answer(theirs, x_t, t, labels)) < 2e-2


def test_there_and_back_every_tensor_is_the_same(pair):
    theirs, ours, params = pair
    written = dict(dit.with_copies(tensors_of(dit.table(ours), params), ours))
    assert set(written) == set(arrays(theirs))
    for name, array in arrays(theirs).items():
        np.testing.assert_array_equal(written[name], array, strict=True)


def test_there_and_back_the_config_is_the_same(pair):
    theirs, ours, _ = pair
    config = theirs.config
    written = dit.config_of(ours, in_channels=config.in_channels, sample_size=config.sample_size)
    assert dit.model_of(written) == ours
    again = diffusers.DiTTransformer2DModel.from_config(written).config
    for key in set(config) - {"_class_name", "_diffusers_version", "_use_default_values", "_name_or_path"}:
        expected = config[key] if key != "out_channels" else ours.out_channels
        assert again[key] == expected, key


@pytest.fixture(scope="module")
def two_heads():
    theirs = drawn(diffusers.DiTTransformer2DModel(**SMALL, **CONFIGS["two heads"]))
    return theirs, dit.model_of(theirs.config)


def test_blocks_with_embeddings_of_their_own_are_refused(two_heads):
    theirs, ours = two_heads
    name = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"
    changed = arrays(theirs)
    changed[name] = changed[name] + 1e-3
    with pytest.raises(InputError, match=f"a.safetensors has blocks with embeddings of their own: {name} differs from"):
        dit.without_copies(held(changed), ours, source="a.safetensors")
    del changed[name]
    with pytest.raises(InputError, match=f"{name} is not there"):
        dit.without_copies(held(changed), ours)


def test_a_copy_in_a_block_that_is_not_there_is_refused(two_heads):
    theirs, ours = two_heads
    name = "transformer_blocks.9.norm1.emb.timestep_embedder.linear_1.bias"
    tensors = dit.without_copies(held({**arrays(theirs), name: np.zeros(24, np.float32)}), ours)
    with pytest.raises(InputError, match=f"{name} .* is not in this model"):
        params_of(dit.table(ours), tensors, shapes_of(ours, 24, 4))


def as_original(theirs):
    """Its arrays as the paper's files hold them."""
    of = arrays(theirs)
    top = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    per_block = {
        "adaLN_modulation.1": "norm1.linear",
        "attn.proj": "attn1.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
    }
    made = {"pos_embed": theirs.pos_embed.pos_embed.numpy()}
    made["y_embedder.embedding_table.weight"] = of[
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    ]
    for leaf in ("weight", "bias"):
        made |= {f"{ours}.{leaf}": of[f"{name}.{leaf}"] for ours, name in top.items()}
        for i in range(theirs.config.num_layers):
            there = f"transformer_blocks.{i}"
            made |= {f"blocks.{i}.{ours}.{leaf}": of[f"{there}.{name}.{leaf}"] for ours, name in per_block.items()}
            parts = [of[f"{there}.attn1.to_{letter}.{leaf}"] for letter in "qkv"]
            made[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(parts)
    return made


@pytest.fixture(scope="module")
def original():
    """diffusers' module with what the paper computes, its arrays by the paper's names, and our model of them."""
    theirs = diffusers.DiTTransformer2DModel(**SMALL, **CONFIGS["two heads"], norm_eps=1e-6, out_channels=8)
    theirs = drawn(theirs)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    made = as_original(theirs)
    return theirs, made, dit.model_of_tensors(held(made), num_heads=2)


def test_the_paper_s_files_are_read(original):
    theirs, made, model = original
    assert model == DiT(8, 4, 24, 3, 2, num_classes=5, grid_size=6)
    tensors = dit.unfused(held(made), model)
    params = params_of(dit.original_table(model), tensors, shapes_of(model, 24, 4))
    x_t, t, labels = images(theirs)
    answer = jax.jit(model.apply)({"params": params}, x_t, t, {"label": jnp.asarray(labels)})
    assert error(answer, their_answer(theirs, x_t, t, labels)) < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_paper_s_files_there_and_back_are_the_same(original, dtype):
    _, made, model = original
    made = {name: array.astype(dtype) for name, array in made.items()}
    params = params_of(dit.original_table(model), dit.unfused(held(made), model), shapes_of(model, 24, 4), dtype=dtype)
    written = dict(dit.fused(tensors_of(dit.original_table(model), params), model))
    assert set(written) == set(made)
    for name, array in made.items():
        if name == "pos_embed":  # diffusers' places are float32 before their sines are taken
            np.testing.assert_allclose(written[name], array, atol=1e-6 if dtype == np.float32 else 1e-3)
            assert written[name].dtype == dtype and written[name].shape == array.shape
        else:
            np.testing.assert_array_equal(written[name], array, strict=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda a: a[:, :-1], r"pos_embed is \[1, 35, 24\] and must be \[1, 36, 24\], of a square grid"),
        (lambda a: a[..., ::-1], "pos_embed differs by .* 6 x 6 places"),
        (lambda a: a * np.nan, "pos_embed differs by nan"),
    ],
)
def test_other_positions_are_refused(original, changed, message):
    _, made, model = original
    with pytest.raises(InputError, match=message):
        dit.unfused(held({**made, "pos_embed": changed(made["pos_embed"])}), model)


@pytest.mark.parametrize(
    ("width", "heads"),
    [(384, 6), (768, 12), (1024, 16), (1152, 16)],
)
def test_heads_are_the_paper_s_for_the_width(original, width, heads):
    _, made, _ = original
    changed = {**made, "x_embedder.proj.weight": np.broadcast_to(np.float32(0), (width, 4, 2, 2))}
    assert dit.model_of_tensors(held(changed)).num_heads == heads
    with pytest.raises(InputError, match="a width of 24, for which .* give num_heads, or take one of 384, 768, 1024"):
        dit.model_of_tensors(held(made))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "ada_norm_single"}, "norm_type='ada_norm_single' is not supported: what is, is 'ada_norm_zero'"),
        ({"attention_bias": False}, "attention_bias=False is not supported: what is, is True"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm=None"),
        ({"activation_fn": "geglu"}, "activation_fn='geglu'"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine=True"),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"sample_size": 7}, "sample_size=7 .* a multiple of patch_size, 2"),
        ({"_class_name": "PixArtTransformer2DModel"}, "_class_name='PixArtTransformer2DModel'"),
    ],
)
def test_what_is_not_supported_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dit.model_of(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": None}, "num_classes=None"),
        ({"time_convention": "adm"}, "diffusers' DiT has time_convention='mixed', and this model 'adm'"),
        ({"mlp_ratio": 2.0}, "mlp_ratio=4.0, and this model 2.0"),
        ({"grid_size": 8}, "sample_size=32 is not of this model: give 16"),
        ({"patch_size": 5}, "sample_size=32 is not of this model: give a multiple of patch_size, 5"),
    ],
)
def test_what_diffusers_has_not_is_not_written(changes, message):
    with pytest.raises(InputError, match=message):
        dit.config_of(DiT(**{"time_convention": "mixed", **changes}), in_channels=4, sample_size=32)


@pytest.mark.parametrize("changes", [{"time_convention": "mixed"}, {"perceptron_epsilon": 1e-5}])
def test_what_the_paper_has_not_is_not_written(changes):
    with pytest.raises(InputError, match=f"the paper's DiT has {next(iter(changes))}="):
        dit.original_table(DiT(**changes))
