"""Names of adapters' arrays: those of kohya's scripts and of diffusers' older versions, as diffusers reads them."""

import numpy as np
import pytest
from convert.lora_pair import ATTENTION, SMALL, Pair, assert_equal, read, small

from marble.convert import conditional_unet, lora
from marble.convert.compvis_names import unet_layers

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def base():
    return Pair()


def kohya(state, alphas=None):
    """The state of peft under the names of kohya's scripts; alphas of modules whose names have these words."""
    named = {}
    for name, array in state.items():
        module, half = name.removesuffix(".weight").rsplit(".", 1)
        module = "lora_unet_" + module.replace(".", "_")
        named[f"{module}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = array.contiguous()
        for word, alpha in (alphas or {}).items():
            if word in name:
                named[f"{module}.alpha"] = torch.tensor(alpha)
    return named


KOHYAS = dict(targets=[*ATTENTION, "net.2", "proj_in", "conv_shortcut"], r=4, rank_pattern={"attn1.to_q": 2})


@pytest.mark.parametrize(
    ("alphas", "dtype"),
    [({"": 2.0}, "float16"), ({"": 2.0, "net.2": 1.0, "proj_in": 6.0}, "float32"), (None, "bfloat16")],
)
def test_kohyas_names_are_read(base, tmp_path, alphas, dtype):
    with base.adapted(**KOHYAS):
        state = {name: array.to(getattr(torch, dtype)) for name, array in base.state().items()}
    path = tmp_path / "style.safetensors"
    safetensors_torch.save_file(kohya(state, alphas), path, metadata={"ss_network_dim": "4"})
    found = base.assert_same(path, base.loaded(path))
    torch.save(kohya(state, alphas), tmp_path / "style.bin")
    of_pickle = base.read(tmp_path / "style.bin")
    assert of_pickle[0] == found[0]
    assert_equal(of_pickle[1], found[1])


def test_kohyas_alphas_hold_for_attentions_too(base, tmp_path):
    # diffusers 0.42 does not find these: its alpha_pattern has their names with .processor.to_q_lora.down.weight
    patterns = {"to_out.0": 0.25, r"attn2\.to_[qkv]": 6.0}
    with base.adapted(**KOHYAS, lora_alpha=2, alpha_pattern=patterns):
        state, expected = base.state(), base.said_by_theirs()
    path = tmp_path / "style.safetensors"
    safetensors_torch.save_file(kohya(state, {"": 2.0, "attn2": 6.0, "to_out": 0.25}), path)
    base.assert_same(path, expected)


SDXL = SMALL | dict(
    block_out_channels=(8, 16, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    transformer_layers_per_block=(1, 1, 2),
    attention_head_dim=(1, 2, 2),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=1550,
)
KNOWN = {
    "input_blocks.4.1.transformer_blocks.0.attn1.to_q": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
    "middle_block.1.proj_in": "mid_block.attentions.0.proj_in",
    "middle_block.2.out_layers.3": "mid_block.resnets.1.conv2",
    "output_blocks.2.2.conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks.5.0.skip_connection": "up_blocks.1.resnets.2.conv_shortcut",
    "label_emb.0.2": "add_embedding.linear_2",
}


def test_kohyas_names_for_sdxl_are_those_of_the_original_code():
    unet = diffusers.UNet2DConditionModel(**SDXL)
    modules = [
        entry.theirs.removesuffix(".weight")
        for entry in conditional_unet.table(conditional_unet.model_of(unet.config), linear=True)
        if entry.ours.endswith("/kernel")
    ]
    names = {there: name for name, there in unet_layers(modules).items()}
    assert set(names.values()) == set(modules) and names.items() >= KNOWN.items()
    made = {}
    for name in names:
        key = "lora_unet_" + name.replace(".", "_")
        made |= {f"{key}.lora_down.weight": torch.tensor([len(made)]), f"{key}.lora_up.weight": torch.tensor([0])}
    state, _ = diffusers.StableDiffusionXLPipeline.lora_state_dict(dict(made), unet_config=unet.config)
    state = diffusers.utils.state_dict_utils.convert_unet_state_dict_to_peft(state)
    theirs = {2 * i: name for i, name in enumerate(names.values())}
    wrong = [
        (key, theirs[int(value)])
        for key, value in state.items()
        if "lora_A" in key and key != f"unet.{theirs[int(value)]}.lora_A.weight"
    ]
    assert not wrong and len(state) == 2 * len(modules)


def test_kohyas_files_may_have_the_original_names(base):
    named = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_{}.weight"
    found = read(base, dict(zip(map(named.format, ("down", "up")), small().values(), strict=True)))
    expected = read(base, small())
    assert found[0] == expected[0]
    assert_equal(found[1], expected[1])


def old(name):
    """diffusers' names of 2023, when adapters were of the attentions' processors."""
    for new, then in (("to_out.0.", "to_out."), ("lora_A", "down"), ("lora_B", "up")):
        name = name.replace(new, then)
    for part in ("to_q", "to_k", "to_v", "to_out"):
        name = name.replace(f".{part}.", f".processor.{part}_lora.")
    return f"unet.{name}"


def training_scripts(name):
    return "unet." + name.replace("lora_A", "lora.down").replace("lora_B", "lora.up")


@pytest.mark.parametrize("renamed", [old, training_scripts, lambda name: f"unet.{name}"])
def test_files_without_alpha_have_that_of_the_rank(base, tmp_path, renamed):
    with base.adapted(ATTENTION, r=3, lora_alpha=3):
        state, expected = base.state(), base.said_by_theirs()
    path = tmp_path / lora.FILE
    safetensors_torch.save_file({renamed(name): array.contiguous() for name, array in state.items()}, path)
    np.testing.assert_array_equal(base.loaded(path), expected)
    own, _ = base.assert_same(path, expected)
    assert (own.rank, own.alpha) == (3, 3)


def test_the_names_of_training_scripts_are_those_that_diffusers_makes(base):
    with base.adapted(ATTENTION, r=3, lora_alpha=3):
        state = base.state()
    made = diffusers.utils.convert_state_dict_to_diffusers(state)
    assert {f"unet.{name}" for name in made} == {training_scripts(name) for name in state}


def test_an_adapter_that_the_network_saves_is_without_its_name(base, tmp_path):
    with base.adapted(ATTENTION, r=3, lora_alpha=1.5):
        base.theirs.save_lora_adapter(tmp_path)
        expected = base.said_by_theirs()
    own, _ = base.assert_same(tmp_path / lora.FILE, expected)
    assert own.alpha == 1.5
