"""Files of adapters beside diffusers and peft: what they write is read, and what is written they read."""

import contextlib

import jax
import numpy as np
import peer
import pytest

from marble.convert import conditional_unet, files, lora
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models.lora import Lora, init, merged, num_parameters

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.parity

SMALL = dict(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=20,
    attention_head_dim=(2, 4),
)
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv_in", "conv_out", "conv1", "conv2", "conv", "conv_shortcut", "proj_in", "proj_out"]
ALL = [*ATTENTION, *CONVOLUTIONS, "time_emb_proj", "linear_1", "linear_2", "net.0.proj", "net.2"]


class Pair:
    """A U-Net of diffusers and the same of ours, and what both are asked."""

    def __init__(self, linear=False):
        self.theirs = peer.shaken(diffusers.UNet2DConditionModel(**SMALL, use_linear_projection=linear))
        self.ours = conditional_unet.model_of(self.theirs.config)
        draw = np.random.default_rng(0).standard_normal
        x_t, text = draw((2, 8, 8, 4)).astype(np.float32), draw((2, 7, 20)).astype(np.float32)
        self.inputs = (x_t, np.array([3, 871]), {"text": text})
        self.table = conditional_unet.table(self.ours, linear=linear)
        self.shapes = peer.shapes_of(self.ours, *self.inputs)
        self.params = peer.converted(self.table, peer.arrays_of(self.theirs), self.shapes)

    def said_by_theirs(self):
        x_t, t, context = self.inputs
        with torch.no_grad():
            return peer.nhwc(self.theirs(peer.nchw(x_t), torch.tensor(t), torch.tensor(context["text"])).sample)

    def said_by_ours(self, params):
        return peer.run(self.ours, params, *self.inputs)

    def adapt(self, targets, **options):
        """Adapters in theirs, of numbers that show."""
        self.theirs.add_adapter(peft.LoraConfig(target_modules=targets, **options))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in self.theirs.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))

    @contextlib.contextmanager
    def adapted(self, targets, **options):
        """Adapters in theirs, and then none."""
        self.adapt(targets, **options)
        yield
        self.theirs.unload_lora()

    def state(self):
        return peft.get_peft_model_state_dict(self.theirs)

    def save(self, folder, state=None, **options):
        options["unet_lora_layers"] = state or self.state()
        diffusers.StableDiffusionPipeline.save_lora_weights(folder, **options)
        return folder / lora.FILE

    def config(self):
        return self.theirs.peft_config["default"].to_dict()

    def read(self, path, **options):
        return lora.read_file(path, self.table, self.shapes, **options)

    def loaded(self, path):
        """What theirs says with a file, through the pipeline."""
        pipeline = diffusers.StableDiffusionPipeline(
            vae=None,
            text_encoder=None,
            tokenizer=None,
            unet=self.theirs,
            scheduler=diffusers.DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.load_lora_weights(str(path))
        said = self.said_by_theirs()
        pipeline.unload_lora_weights()
        return said

    def assert_same(self, path, expected):
        """Ours with the file's adapters says what is expected, and that is not what it said without."""
        own, adapters = self.read(path)
        peer.assert_near(self.said_by_ours(merged(own, self.params, adapters)), expected)
        base = self.said_by_ours(self.params)
        assert np.abs(base - expected).max() > 0.05 * np.abs(expected).max()
        return own, adapters


@pytest.fixture(scope="module")
def base():
    return Pair()


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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
    names = lora.original_names(modules)
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


def test_a_text_encoder_is_refused_or_left_out(base):
    tensors = {**small(), "text_encoder.layers.0.q_proj.lora_A.weight": np.zeros((2, 8))}
    tensors["lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"] = np.float32(1)
    with pytest.raises(
        InputError, match=r"x.bin adapts a text encoder too \(2 arrays, as text_encoder.layers.0.*=True"
    ):
        read(base, tensors)
    found, expected = read(base, tensors, ignore_text_encoder=True), read(base, small())
    assert found[0] == expected[0]
    assert_equal(found[1], expected[1])
    only = {name: array for name, array in tensors.items() if "te" in name.partition("unet")[0]}
    with pytest.raises(InputError, match="x.bin has no adapter of the unet"):
        read(base, only, ignore_text_encoder=True)


QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def small(module=QUERY):
    draw = np.random.default_rng(0).standard_normal
    return {
        f"unet.{module}.lora_A.weight": draw((2, 32)).astype(np.float32),
        f"unet.{module}.lora_B.weight": draw((32, 2)).astype(np.float32),
    }


def read(pair, tensors, metadata=None, **options):
    metadata = None if metadata is None else {lora.CONFIG: metadata}
    named = held({name: np.asarray(array) for name, array in tensors.items()})
    return lora.read(named, pair.table, pair.shapes, metadata=metadata, source="x.bin", **options)


A, B = small()
ZERO = np.zeros


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({B: None}, rf"x.bin does not fit the model: {A} is there without its up$"),
        ({A: None}, rf"{B} is there without its down$"),
        ({A: ZERO((2, 31))}, rf"{A} is \[2, 31\] and must be \[2, 32\]$"),
        ({B: ZERO((32, 3))}, rf"{B} is \[32, 3\] and must be \[32, 2\]$"),
        ({A: ZERO((2, 32, 3, 3))}, rf"{A} is \[2, 32, 3, 3\] and must be \[2, 32\]$"),
        ({A: ZERO((0, 32)), B: ZERO((32, 0))}, r"must be \[0, 32\], its rank from 1 to 65536"),
        ({A: np.broadcast_to(np.int8(0), (2**57, 32))}, r"its rank from 1 to 65536"),
        ({A: ZERO(())}, r"its rank from 1 to 65536"),
        (
            {f"lora_unet_{QUERY.replace('.', '_')}.lora_up.weight": ZERO((32, 2))},
            rf"lora_unet_.* and {B} are the same$",
        ),
        (
            small(QUERY.replace("attn1", "atn1")),
            r"atn1.to_q.lora_A.weight is of no layer .*did you mean '.*attn1.to_q'\?",
        ),
        (
            {"lora_unet_mid_block_attentions_0_proj_on.alpha": ZERO(())},
            "did you mean 'lora_unet_mid_block_attentions_0_proj_in'",
        ),
        ({f"unet.{QUERY}.hada_w1_a": ZERO((2, 2))}, "hada_w1_a is no weight of LoRA"),
        ({f"unet.{QUERY}.lora_magnitude_vector": ZERO(2)}, "lora_magnitude_vector is no weight of LoRA"),
        ({f"unet.{QUERY}.alpha": ZERO(2)}, r"alpha is \[2\] and must be one number"),
        ({f"unet.{QUERY}.alpha": ZERO(())}, "x.bin has alpha 0.0 for mid_block.*, and it must be a number above 0"),
        ({f"unet.{QUERY}.alpha": np.float32("nan")}, "has alpha nan for"),
        (
            {f"unet.conv_{i}.lora_A.weight": ZERO((2, 2)) for i in range(9)},
            "conv_4.lora_A.weight [^;]*; [^;]*; and 4 more$",
        ),
        ({A: None, B: None}, "x.bin has no adapter of the unet: is it a file of LoRA"),
    ],
)
def test_what_does_not_fit_is_refused(base, change, message):
    tensors = {name: array for name, array in {**small(), **change}.items() if array is not None}
    with pytest.raises(InputError, match=message) as error:
        read(base, tensors)
    assert "\n" not in str(error.value) and str(error.value).startswith("x.bin ")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "that is not JSON"),
        ("[" * 100_000, "that is not JSON"),
        ("[1]", "that is no object"),
        ('{"unet.use_dora": true}', "is LoRA with use_dora, which"),
        (
            '{"unet.lora_bias": true, "unet.init_lora_weights": "pissa"}',
            "with lora_bias, init_lora_weights='pissa', which",
        ),
        ('{"unet.lora_alpha": "8"}', "has alpha '8' for"),
        ('{"unet.alpha_pattern": [1]}', r"has the alpha_pattern \[1\], and"),
        ('{"unet.lora_alpha": -1}', "has alpha -1 for"),
        ('{"unet.lora_alpha": 1e400}', "has alpha inf for"),
        ('{"unet.lora_alpha": ' + "9" * 400 + "}", "has alpha a number of more than 64 bits for"),
        ('{"unet.alpha_pattern": {"mid_block.*": 3}}', r"has an alpha_pattern 'mid_block\.\*', and"),
    ],
)
def test_metadata_that_is_no_plain_lora_is_refused(base, metadata, message):
    with pytest.raises(InputError, match=message) as error:
        read(base, small(), metadata)
    assert "\n" not in str(error.value) and str(error.value).startswith("x.bin ")


def test_metadata_of_another_part_says_nothing(base):
    assert read(base, small(), '{"text_encoder.lora_alpha": 7}')[0].alpha == 2
    assert read(base, small(), '{"text_encoder.lora_alpha": 7, "unet.lora_alpha": 5}')[0].alpha == 5


def test_adapters_of_another_model_are_not_written(base, tmp_path):
    pair = {"down": ZERO((4, 2)), "up": ZERO((2, 4))}
    with pytest.raises(InputError, match="the adapter dense/kernel can't be written"):
        lora.write(Lora(2), {"dense": {"kernel": pair}}, base.table, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="lora.rank=3 is that of no adapter"):
        lora.write(Lora(3), {"conv_in": {"kernel": pair}}, base.table, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
