"""Folders that diffusers and transformers wrote, read by ours; and ours, read by them."""

import inspect
import json
import logging
import re

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util
from small_unet import SMALL

from marble.convert import files
from marble.convert.folder import open_part, params_of_part, write_part, write_tensors
from marble.convert.kinds import KINDS, shapes_of
from marble.convert.names import params_of
from marble.convert.pipeline_folder import described
from marble.convert.tensors import held
from marble.errors import InputError
from marble.models import UNet
from marble.models.conditional_unet import ConditionalUNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TWO_LEVELS = dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)
VAE = dict(
    **TWO_LEVELS,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
)
PIXELS = dict(
    **TWO_LEVELS,
    sample_size=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)
DIT = dict(
    sample_size=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_embeds_ada_norm=3, out_channels=8
)
TEXT = dict(
    vocab_size=99, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, projection_dim=12
)
VISION = dict(
    hidden_size=20, intermediate_size=28, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
)
WIDE = dict(vocab_size=99, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2)


def network(name):
    torch.manual_seed(0)
    made = {
        "UNet2DConditionModel": lambda: diffusers.UNet2DConditionModel(**SMALL),
        "UNet2DConditionModel, linear": lambda: diffusers.UNet2DConditionModel(**SMALL, use_linear_projection=True),
        "UNet2DModel": lambda: diffusers.UNet2DModel(**PIXELS),
        "DiTTransformer2DModel": lambda: diffusers.DiTTransformer2DModel(**DIT),
        "AutoencoderKL": lambda: diffusers.AutoencoderKL(**VAE),
        "AutoencoderTiny": lambda: diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 2),
            num_decoder_blocks=(2, 1),
        ),
        "CLIPTextModel": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)),
        "CLIPTextModelWithProjection": lambda: transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**TEXT)
        ),
        "CLIPModel": lambda: transformers.CLIPModel(
            transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
        ),
        "BertModel": lambda: transformers.BertModel(transformers.BertConfig(**WIDE)),
    }[name]()
    if "DiT" in name:  # the embeddings of its blocks differ when they are fresh; those of trained ones were copied
        state = made.state_dict()
        first = {k: v for k, v in state.items() if k.startswith("transformer_blocks.0.norm1.emb")}
        made.load_state_dict(state | {k.replace("blocks.0", "blocks.1"): v for k, v in first.items()})
    return made.eval()


NETWORKS = [
    "UNet2DConditionModel",
    "UNet2DConditionModel, linear",
    "UNet2DModel",
    "DiTTransformer2DModel",
    "AutoencoderKL",
    "AutoencoderTiny",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPModel",
    "BertModel",
]
NOT_OURS = re.compile(r"pooler\.|position_ids|token_type_ids")


def state_of(theirs):
    return {k: v.numpy() for k, v in theirs.state_dict().items() if not NOT_OURS.search(k)}


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def assert_same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and (x == y).all(), a, b))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_there_and_back(tmp_path, name):
    theirs = network(name)
    theirs.save_pretrained(tmp_path / "theirs")
    part = open_part(tmp_path / "theirs")
    assert part.kind == name.partition(",")[0]
    params = params_of_part(part)
    write_part(tmp_path / "ours", part.config, part.table, params)
    again = type(theirs).from_pretrained(tmp_path / "ours")
    assert_equal(state_of(again), state_of(theirs))
    half = open_part(write_part(tmp_path / "half", part.config, part.table, params, dtype=np.float16).parent)
    assert_same_tree(params_of_part(half), jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), params))
    write_tensors(tmp_path / "streamed", part.config, files.read(part.path))
    assert_equal(state_of(type(theirs).from_pretrained(tmp_path / "streamed")), state_of(theirs))


VARIANTS = {
    "a pickle": dict(safe_serialization=False),
    "half": dict(variant="fp16"),
    "shards": dict(max_shard_size="8KB"),
    "shards of half": dict(max_shard_size="8KB", variant="fp16"),
    "pickled shards": dict(max_shard_size="8KB", safe_serialization=False),
    "a pickle of half": dict(variant="fp16", safe_serialization=False),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["UNet2DConditionModel", "CLIPTextModel"])
def test_every_file_of_weights(tmp_path, caplog, name, variant):
    theirs = network(name).half() if "half" in variant else network(name)
    theirs.save_pretrained(tmp_path, **VARIANTS[variant])
    if name == "CLIPTextModel" and "pickle" in variant:  # transformers writes none any more
        for path in tmp_path.glob("*model*"):
            path.unlink()
        torch.save(
            theirs.state_dict(), tmp_path / ("pytorch_model.fp16.bin" if "half" in variant else "pytorch_model.bin")
        )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert not any(name in ("model.safetensors", "diffusion_pytorch_model.safetensors") for name in names), names
    with caplog.at_level(logging.INFO):
        part = open_part(tmp_path)
    assert ("half precision" in caplog.text) == ("half" in variant)
    state = KINDS[part.kind].as_now(held(state_of(theirs.float())), part.model, "")
    expected = params_of(part.table, state, shapes_of(part.model, part.config, part.kind))
    assert_same_tree(params_of_part(part), expected)


def as_flax(theirs):
    """Its parameters as diffusers' and transformers' Flax classes held them, by the rules they were made by."""
    made, lists = {}, diffusers.ModelMixin
    for name, array in state_of(theirs).items():
        *parts, leaf = name.split(".")
        if isinstance(theirs, lists):
            parts = re.sub(r"(\w+)\.(\d+)", r"\1_\2", ".".join(parts)).split(".")
        if leaf == "weight":
            is_norm = "norm" in parts[-1].lower() or "layrnorm" in parts[-1]
            leaf = "scale" if is_norm else "embedding" if "embedding" in parts[-1] and array.ndim == 2 else "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if leaf == "kernel" else array
        made["/".join([*parts, leaf])] = array.copy()
    return made


@pytest.mark.parametrize(
    "name", ["UNet2DConditionModel", "UNet2DConditionModel, linear", "AutoencoderKL", "CLIPModel", "BertModel"]
)
def test_a_flax_file_is_read(tmp_path, name):
    theirs = network(name)
    theirs.save_pretrained(tmp_path)
    expected = params_of_part(open_part(tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    if "_class_name" in config:
        config["_class_name"] = "Flax" + config["_class_name"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tree = traverse_util.unflatten_dict(as_flax(theirs), sep="/")
    file = "diffusion_flax_model.msgpack" if "_class_name" in config else "flax_model.msgpack"
    (tmp_path / file).write_bytes(serialization.msgpack_serialize(tree))
    assert_same_tree(params_of_part(open_part(tmp_path)), expected)


def stable(tmp_path, cls="StableDiffusionPipeline", **options):
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    parts = dict(unet=network("UNet2DConditionModel"), vae=network("AutoencoderKL"), scheduler=scheduler)
    parts |= dict(text_encoder=network("CLIPTextModel"), tokenizer=None)
    if "XL" in cls:
        parts |= dict(text_encoder_2=network("CLIPTextModelWithProjection"), tokenizer_2=None)
        sizes = dict(addition_embed_type="text_time", addition_time_embed_dim=256)
        parts["unet"] = diffusers.UNet2DConditionModel(**SMALL, **sizes, projection_class_embeddings_input_dim=1548)
    else:
        parts |= dict(safety_checker=None, feature_extractor=None)
    pipeline = getattr(diffusers, cls)(**parts, **options)
    pipeline.save_pretrained(tmp_path)
    return pipeline


@pytest.mark.parametrize(
    "cls", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionXLPipeline"]
)
def test_stable_diffusion_is_described(tmp_path, cls):
    pipeline = stable(tmp_path, cls)
    found = described(tmp_path)
    assert found.image == ((16, 16, 3), 256) and found.class_names is None and found.denoiser == tmp_path / "unet"
    config = found.config
    assert (config["objective"], config["conditioner"], config["codec"]) == ("diffusion", "text", "autoencoder")
    model = dict(config["model"])
    assert model.pop("name") == "conditional_unet"
    assert ConditionalUNet(out_channels=4, **model) == open_part(tmp_path / "unet").model
    signature = inspect.signature(type(pipeline).__call__).parameters
    assert config["sampling"]["guidance_scale"] == signature["guidance_scale"].default
    assert config["sampling"]["num_steps"] == signature["num_inference_steps"].default
    assert config["sampling"]["clip_sample"] is False
    assert config["sampling"]["steps_offset"] == pipeline.scheduler.config.steps_offset
    is_xl = "XL" in cls
    assert config["text"] == {
        "encoders": ["{workdir}/text_encoder", "{workdir}/text_encoder_2"][: 1 + is_xl],
        "tokenizers": ["{workdir}/tokenizer", "{workdir}/tokenizer_2"][: 1 + is_xl],
        "states": "penultimate" if is_xl else "last",
        "zero_null": is_xl,
    }
    assert config["autoencoder"] == {"path": "{workdir}/vae"}


def test_the_inpainting_pipeline_is_parts_alone(tmp_path):
    stable(tmp_path)
    unet = diffusers.UNet2DConditionModel(**SMALL, in_channels=9)
    unet.save_pretrained(tmp_path / "unet")
    assert open_part(tmp_path / "unet").model.concat_channels == 5
    with pytest.raises(InputError, match="inpainting"):
        described(tmp_path)


def test_dit_is_described(tmp_path):
    pipeline = diffusers.DiTPipeline(
        transformer=network("DiTTransformer2DModel"),
        vae=network("AutoencoderKL"),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
    )
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())  # the published one has it, and none saves it
    index["id2label"] = {"1": "goldfish", "0": "tench, Tinca tinca", "2": "shark"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert diffusers.DiTPipeline.from_pretrained(tmp_path).get_label_ids(["goldfish"]) == [1]
    found = described(tmp_path)
    assert found.class_names == ("tench, Tinca tinca", "goldfish", "shark")
    assert found.image == ((8, 8, 3), 256) and found.denoiser == tmp_path / "transformer"
    assert found.config["conditioner"] == "labels" and found.config["model"]["name"] == "dit"
    assert found.config["diffusion"]["variance_type"] == "learned_range"
    default = inspect.signature(diffusers.DiTPipeline.__call__).parameters["guidance_scale"].default
    assert found.config["sampling"]["guidance_scale"] == default


@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline"])
@pytest.mark.parametrize("layout", ["folders", "one folder", "no index"])
def test_pixels_are_described(tmp_path, name, layout):
    pipeline = getattr(diffusers, name)(unet=network("UNet2DModel"), scheduler=diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path)
    if layout != "folders":  # as the oldest repositories have it
        for path in [*tmp_path.glob("*/*")]:
            path.rename(tmp_path / path.name)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    if layout == "no index":
        (tmp_path / "model_index.json").unlink()
    found = described(tmp_path)
    model = dict(found.config["model"])
    assert model.pop("name") == "unet"
    assert UNet(out_channels=3, **model) == open_part(found.denoiser).model
    assert found.image == ((8, 8, 3), 256) and found.config["codec"] == "identity"
    sampler = "ddim" if name == "DDIMPipeline" else "ancestral"  # whatever scheduler that pipeline is given
    assert found.config["sampling"]["sampler"] == sampler
    params_of_part(open_part(found.denoiser))
