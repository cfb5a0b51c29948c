"""Files of adapters beside diffusers and peft: what they write is read, and what is written they read."""

import jax
import numpy as np
import peer
import pytest
from convert.lora_pair import ALL, ATTENTION, ZERO, Pair, assert_equal

from marble.convert import files, lora
from marble.errors import InputError
from marble.models.lora import Lora, init, merged, num_parameters

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def base():
    return Pair()


@pytest.mark.parametrize(
    ("targets", "options", "linear"),
    [
        (ATTENTION, dict(r=4, lora_alpha=2), False),
        (ATTENTION, dict(r=4, lora_alpha=8), True),
        (ALL, dict(r=3, lora_alpha=3), False),
        (ALL, dict(r=4, lora_alpha=2, use_rslora=True), True),
    ],
)
def test_what_diffusers_saves_does_the_same_here(tmp_path, targets, options, linear):
    pair = Pair(linear)
    pair.adapt(targets, **options)
    path = pair.save(tmp_path, unet_lora_adapter_metadata=pair.config())
    own, adapters = pair.assert_same(path, pair.said_by_theirs())
    assert own.rank == options["r"]
    kernels = [entry.ours for entry in pair.table if entry.ours.endswith("/kernel")]
    assert len(own.targets) == (len(kernels) if targets is ALL else 4 * 2 * 4)  # 4 transformers
    assert num_parameters(adapters) == sum(array.numel() for array in pair.state().values())
    again = init(own, pair.shapes, jax.random.key(0))
    assert jax.tree.map(np.shape, again) == jax.tree.map(np.shape, adapters)
    lora.write(own, adapters, pair.table, tmp_path / "again.safetensors")
    back, expected = files.read(tmp_path / "again.safetensors"), files.read(path)
    assert set(back) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(back[name].read(), tensor.read(), err_msg=name)
    assert pair.read(tmp_path / "again.safetensors")[0] == own


@pytest.mark.parametrize("scaling", ["one", "several"])
def test_ranks_and_alphas_may_differ_by_layers(base, tmp_path, scaling):
    ranks = {"to_k": 2, "conv1": 5, "^mid_block.attentions.0.proj_in": 1}
    alphas = {"to_k": 3, "conv1": 7.5, "^mid_block.attentions.0.proj_in": 1.5}
    if scaling == "several":
        alphas |= {"conv1": 2, "attn2.to_v": 1}
    with base.adapted(ALL, r=4, lora_alpha=6, rank_pattern=ranks, alpha_pattern=alphas):
        path = base.save(tmp_path, unet_lora_adapter_metadata=base.config())
        expected = base.said_by_theirs()
        state = base.state()
    own, adapters = base.assert_same(path, expected)
    assert (own.rank, own.alpha) == (4, 6.0)
    again = tmp_path / "again" / lora.FILE
    again.parent.mkdir()
    lora.write(own, adapters, base.table, again)
    back, found = base.read(again)
    assert back == own
    assert_equal(found, adapters)
    peer.assert_near(base.loaded(again.parent), expected)
    for name, tensor in files.read(again).items():
        is_folded = scaling == "several" and "lora_B" in name and ("conv1" in name or "attn2.to_v" in name)
        assert (tensor.read() == state[name.removeprefix("unet.")].numpy()).all() != is_folded, name


@pytest.mark.parametrize(
    ("own", "dtype", "linear"),
    [
        (Lora(2, 8.0), np.float16, True),
        (Lora(3, None, ("kernel",)), np.float32, True),
        (Lora(4, 0.5, ("kernel",)), np.float32, False),
    ],
)
def test_what_is_written_does_the_same_there(tmp_path, own, dtype, linear):
    pair = Pair(linear)
    draw = np.random.default_rng(2).standard_normal
    size = 0.3 / own.scaling**0.5
    adapters = jax.tree.map(
        lambda leaf: (size * draw(leaf.shape)).astype(dtype),
        jax.eval_shape(lambda: init(own, pair.shapes, jax.random.key(0))),
    )
    path = tmp_path / lora.FILE
    lora.write(own, adapters, pair.table, path)
    expected = pair.said_by_ours(merged(own, pair.params, adapters))
    for place in (path, tmp_path):
        peer.assert_near(pair.loaded(place), expected)
    pair.theirs.load_lora_adapter(str(tmp_path), prefix="unet", weight_name=lora.FILE)
    peer.assert_near(pair.said_by_theirs(), expected)
    back, found = pair.assert_same(path, expected)
    assert (back.rank, back.scaling) == (own.rank, own.scaling)
    assert_equal(found, jax.tree.map(np.float32, adapters))


def test_adapters_of_another_model_are_not_written(base, tmp_path):
    pair = {"down": ZERO((4, 2)), "up": ZERO((2, 4))}
    with pytest.raises(InputError, match="the adapter dense/kernel can't be written"):
        lora.write(Lora(2), {"dense": {"kernel": pair}}, base.table, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="lora.rank=3 is that of no adapter"):
        lora.write(Lora(3), {"conv_in": {"kernel": pair}}, base.table, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
