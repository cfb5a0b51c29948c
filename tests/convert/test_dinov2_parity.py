"""DINOv2 beside transformers': the same states of the same weights, at its own size and at others, and its files."""

import jax.numpy as jnp
import numpy as np
import pytest
from peer import assert_near, nchw, run

from marble.convert import dinov2, folder
from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held
from marble.models.interpolation import cubic_axis

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SMALL = dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=2, image_size=35, patch_size=7, mlp_ratio=3)


def drawn(**config):
    """A network of theirs in which every number counts."""
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = name.endswith(("norm1.weight", "norm2.weight", "layernorm.weight", "lambda1"))
            parameter.copy_(is_scale + 0.2 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov2")
    theirs = drawn(**SMALL)
    theirs.save_pretrained(path)
    return theirs, path


@pytest.mark.parametrize("sides", [(35, 35), (14, 14), (56, 56), (21, 49)], ids=["own", "smaller", "larger", "oblong"])
def test_states(saved, sides):
    theirs, path = saved
    part = folder.open_part(path)
    images = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(nchw(images))
    found = run(part.model, folder.params_of_part(part), jnp.asarray(images))
    assert_near(found.last, expected.last_hidden_state)
    assert_near(found.features, expected.pooler_output)
    np.testing.assert_allclose(found.features, expected.pooler_output, atol=1e-4)


def test_a_block_of_full_size():
    theirs = drawn(hidden_size=384, num_attention_heads=6, num_hidden_layers=1, image_size=518, patch_size=14)
    model = dinov2.model_of(theirs.config.to_dict())
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = params_of(dinov2.table(model), dinov2.as_now(held(as_saved(arrays))), dinov2.shapes_of(model))
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(nchw(images)).pooler_output
    assert_near(run(model, params, jnp.asarray(images)).features, expected)


def as_saved(arrays):
    """transformers 5 has other names in memory than in its files."""
    renames = {
        f".attention.{c}_proj": f".attention.attention.{part}"
        for c, part in zip("qkv", ("query", "key", "value"), strict=True)
    }
    renames[".attention.o_proj"] = ".attention.output.dense"
    made = {}
    for name, array in arrays.items():
        for old, new in renames.items():
            name = name.replace(old, new)
        made[name] = array
    return made


def test_what_is_written_transformers_loads(saved, tmp_path):
    theirs, path = saved
    part = folder.open_part(path)
    params = folder.params_of_part(part)
    folder.write_part(tmp_path, dinov2.config_of(part.model), part.table, params)
    loaded = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    images = nchw(np.random.default_rng(0).normal(size=(1, 35, 35, 3)).astype(np.float32))
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(images).pooler_output, theirs(images).pooler_output)


def test_there_and_back_nothing_changes(saved):
    part = folder.open_part(saved[1])
    back = dict(tensors_of(part.table, folder.params_of_part(part)))
    assert set(back) == set(part.tensors)
    for name, array in back.items():
        np.testing.assert_array_equal(array, part.tensors[name].read())


@pytest.mark.parametrize("size, new, offset", [(37, 16, 0.0), (37, 16, 0.1), (5, 8, 0.1), (9, 4, 0.0)])
def test_positions_are_interpolated_as_pytorch_does(size, new, offset):
    """The authors' code hands PyTorch a scale, of a grid 0.1 places larger than what is made."""
    x = np.random.default_rng(0).normal(size=(1, 2, size, size)).astype(np.float32)
    asked = dict(scale_factor=(new + offset) / size) if offset else dict(size=(new, new))
    expected = torch.nn.functional.interpolate(torch.tensor(x), mode="bicubic", align_corners=False, **asked).numpy()
    axis = cubic_axis(size, new, scale=size / (new + offset))
    np.testing.assert_allclose(axis @ x @ axis.T, expected, atol=1e-5)
