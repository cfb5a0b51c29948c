"""Checkpoints from one form to another, with folders and files that ours wrote. Beside diffusers: tests/convert."""

import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import torch_files
import vocabularies
from processes import final_state

import marble
from marble import builders, loading, run, workdir
from marble.config import load_config
from marble.conversion import convert, file_kinds, files_of_papers, kind_of_file, writing
from marble.convert import adm, autoencoder_kl, clip, compvis, conditional_unet, ddpm, dit, files, taesd
from marble.convert.folder import open_part, params_of_part
from marble.convert.kinds import shapes_of
from marble.convert.names import flat, tensors_of
from marble.convert.tensors import Tensor, held
from marble.errors import InputError
from marble.models import AdmUNet, ConditionalUNet, UNet
from marble.models.adm import AdmClassifier
from marble.models.autoencoder_kl import AutoencoderKL
from marble.models.clip import ClipText
from marble.models.dit import DiT
from marble.models.tiny_autoencoder import TinyAutoencoder
from marble.typing import ImageSpec

PIPELINES = {
    "pixels": {},
    "stable_diffusion": {"text": "a photo of a cat"},
    "stable_diffusion_xl": {"text": "a photo of a cat"},
    "classes": {"labels": "dog"},
}


def weights(folder):
    """All arrays of a folder's files, by path and name."""
    return {
        (str(path.relative_to(folder)), name): tensor.read()
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in files.read(path).items()
    }


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, err_msg=str(key))


def assert_same_params(found, expected):
    assert_same(flat(found), flat(expected))


def assert_nothing_at(out):
    assert not out.exists() and not [path for path in out.parent.iterdir() if out.name in path.name]


@pytest.fixture(scope="module", params=PIPELINES)
def there_and_back(request, tmp_path_factory):
    """(name, a published folder, its workdir, the folder of that)."""
    folder = tmp_path_factory.mktemp(request.param)
    source = getattr(published, request.param)(folder / "in")
    convert(source, folder / "workdir")
    # It can be moved, and what it was made of may be gone.
    (folder / "workdir").rename(folder / "moved")
    source = source.rename(folder / "in, moved")
    convert(folder / "moved", folder / "back")
    return request.param, source, folder / "moved", folder / "back"


def test_there_and_back_every_tensor_and_config_is_the_same(there_and_back):
    _, source, _, back = there_and_back
    assert_same(weights(back), weights(source))
    for path in source.rglob("*"):
        if path.is_file() and "tokenizer" in path.parent.name:
            assert (back / path.relative_to(source)).read_bytes() == path.read_bytes()
    for path in source.rglob("config.json"):
        before, now = (json.loads(p.read_text()) for p in (path, back / path.relative_to(source)))
        assert {key: value for key, value in now.items() if key in before} == before
    before, now = loading.recalled(str(source)), loading.recalled(str(back))
    assert now[1] == before[1]
    for section in ("model", "diffusion", "sampling"):
        assert now[0][section] == before[0][section]


def test_the_workdir_has_the_parameters_once_and_only_what_is_read(there_and_back):
    name, source, made, _ = there_and_back
    step, _, params = loading.load_params(str(made))
    part = {"classes": "transformer"}.get(name, "unet")
    assert step == 0
    assert_same_params(params, params_of_part(open_part(source / part)))
    there = {path.name for path in made.iterdir()}
    assert there == {"config.json", "checkpoints"} | {p.name for p in source.iterdir() if p.is_dir()} - {
        part,
        "scheduler",
    }
    assert "{workdir}" in (made / "config.json").read_text() or name == "pixels"
    assert str(source.parent) not in (made / "config.json").read_text()


def test_the_images_are_the_same_bit_for_bit(there_and_back):
    name, source, made, back = there_and_back
    if name in ("stable_diffusion_xl", "classes"):
        pytest.skip("the same code; their tensors and configs are compared")
    drawn = [marble.load(str(folder)).sample(2, steps=4, **PIPELINES[name]) for folder in (source, made, back)]
    assert drawn[0].std() > 1
    for images in drawn[1:]:
        np.testing.assert_array_equal(images, drawn[0])


def test_parameters_of_the_last_step_are_refused_for_there_are_none(there_and_back):
    with pytest.raises(InputError, match="params"):
        marble.load(str(there_and_back[2]), raw_params=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The workdir of a small run."""
    folder = tmp_path_factory.mktemp("digits")
    run.run(small_digits(), str(folder))
    return folder


def small_digits(**changes):
    config = builders.complete(load_config("digits:smoke"))
    config.model.channel_mult, config.training.num_steps, config.training.checkpoint_every = (1,), 2, 1
    config.training.sample_every = config.training.eval_every = 0
    for key, value in changes.items():
        config[key] = value
    return config


def test_a_run_begins_with_what_a_run_became(digits, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    convert(digits, tmp_path / "theirs")
    assert "wrote" in caplog.text and "a DDPMPipeline of diffusers" in caplog.text
    convert(tmp_path / "theirs", tmp_path / "ours")
    began = []
    monkeypatch.setattr(run, "train", lambda **found: began.append(found["state"]))
    run.run(small_digits(init_from=str(tmp_path / "ours")), str(tmp_path / "run"))
    _, state = final_state(digits)
    for params in (began[0].params, began[0].ema_params):
        jax.tree.map(np.testing.assert_array_equal, params, state.ema_params)


def test_a_step_is_chosen(digits, tmp_path):
    for step in (1, 2):
        convert(digits, tmp_path / str(step), step=step)
        _, _, params = loading.load_params(str(digits), step=step)
        assert_same_params(params_of_part(open_part(tmp_path / str(step) / "unet")), params)
    with pytest.raises(InputError, match="no checkpoint of step 7 .*there are: 2, 1"):
        convert(digits, tmp_path / "none", step=7)
    assert_nothing_at(tmp_path / "none")


def remembered(folder, config, shape=(8, 8, 1)):
    """A workdir with no checkpoint: refused before one is looked for."""
    workdir.remember(str(folder), builders.complete(config).to_dict(), workdir.DataFacts(ImageSpec(shape, 256), {}, ""))
    return folder


def of_config(name, **sections):
    config = load_config(name)
    for section, keys in sections.items():
        config[section] = {**config[section].to_dict(), **keys}
    return config


LEARNED = dict(beta_schedule="learned_linear", weighting="elbo")
ADM_MODEL = dict(name="adm", channels=32, channel_mult=(1, 2), num_res_blocks=1)
REFUSED = {
    "vae": (lambda: load_config("digits_vae:smoke"), "diffusers has no objective='vae'"),
    "learned": (
        lambda: load_config("digits:smoke").to_dict() | {"diffusion": LEARNED},
        "diffusion.beta_schedule='learned_linear' .* is none that diffusers has",
    ),
    "self-conditioning": (
        lambda: of_config("digits:smoke", training={"self_conditioning": True}),
        "diffusers has no training.self_conditioning=True",
    ),
    "adm": (
        lambda: {**load_config("digits:smoke").to_dict(), "model": ADM_MODEL},
        "diffusers has no model.name='adm'",
    ),
    "DiT of pixels": (
        lambda: {**load_config("digits:smoke").to_dict(), "model": {"name": "dit", "num_classes": 10}},
        "no pipeline of model.name='dit' with codec='identity': it has one with 'autoencoder'",
    ),
    "posterior mean": (
        lambda: of_config("digits:smoke", diffusion={"prediction_type": "posterior_mean"}),
        "diffusion.prediction_type='posterior_mean' is none that diffusers has",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_diffusers_has_not_is_refused_by_name(name, tmp_path):
    config, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as error:
        convert(remembered(tmp_path / "run", config()), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert_nothing_at(tmp_path / "out")


def test_text_encoders_that_diffusers_pipelines_have_not_are_refused(tmp_path):
    convert(published.stable_diffusion(tmp_path / "in"), tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    for key, value in {"states": "penultimate", "zero_null": True}.items():
        changed = {**kept, "config": {**kept["config"], "text": {**kept["config"]["text"], key: value}}}
        (tmp_path / "run" / "config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=f"StableDiffusionPipeline has text.{key}="):
            convert(tmp_path / "run", tmp_path / "out")


def test_a_scale_of_the_config_s_own_is_told_the_autoencoder(tmp_path):
    convert(published.stable_diffusion(tmp_path / "in"), tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    kept["config"]["autoencoder"]["scale"] = 0.25
    (tmp_path / "run" / "config.json").write_text(json.dumps(kept))
    convert(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "vae" / "config.json").read_text())["scaling_factor"] == 0.25


DTYPES = {"bfloat16": jnp.bfloat16, "float16": np.float16, "float32": np.float32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_is_written_in_a_dtype(dtype, tmp_path):
    source = published.stable_diffusion(tmp_path / "in", dtype=np.float32 if dtype != "float32" else np.float16)
    # What marble does not know keeps its names, and integers theirs.
    published.write_json(source / "safety_checker" / "config.json", {"architectures": ["Checker"], "dtype": "float32"})
    arrays = {"weight": np.arange(4, dtype=np.float32), "ids": np.arange(3)}
    published.write_file(source / "safety_checker" / "model.safetensors", arrays)
    (source / "README.md").write_text("about it")
    (source / "whole.ckpt").write_text("not read")
    convert(source, tmp_path / "out", to="diffusers", dtype=dtype)
    kind = DTYPES[dtype]
    before = {k: a if a.dtype.kind == "i" else np.asarray(a, kind) for k, a in weights(source).items()}
    assert_same(weights(tmp_path / "out"), before)
    assert json.loads((tmp_path / "out" / "safety_checker" / "config.json").read_text())["dtype"] == dtype
    names = lambda folder: {str(path.relative_to(folder)) for path in folder.rglob("*")}  # noqa: E731
    assert names(tmp_path / "out") == names(source) - {"whole.ckpt"}
    assert (tmp_path / "out" / "README.md").read_text() == "about it"
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == json.loads(
        (source / "model_index.json").read_text()
    )


def test_frozen_parts_are_stored_in_a_dtype_and_parameters_are_not(tmp_path):
    source = published.stable_diffusion(tmp_path / "in")
    convert(source, tmp_path / "run", dtype="bfloat16")
    assert {array.dtype for array in weights(tmp_path / "run").values()} == {np.dtype(jnp.bfloat16)}
    assert_same_params(loading.load_params(str(tmp_path / "run"))[2], params_of_part(open_part(source / "unet")))


def test_numbers_that_float16_does_not_hold_are_refused_and_nothing_is_left(tmp_path):
    source = published.pixels(tmp_path / "in")
    arrays = {name: t.read() for name, t in files.read(source / "unet" / "diffusion_pytorch_model.safetensors").items()}
    arrays["conv_in.bias"] = arrays["conv_in.bias"] * 0 + 1e6
    published.write_file(source / "unet" / "diffusion_pytorch_model.safetensors", arrays)
    with pytest.raises(InputError, match=r"conv_in.bias has numbers up to 1e\+06, .* set --dtype bfloat16"):
        convert(source, tmp_path / "made" / "for" / "out", to="diffusers", dtype="float16")
    assert not (tmp_path / "made").exists()


def test_a_part_alone_becomes_safetensors(tmp_path):
    source = published.stable_diffusion(tmp_path / "in") / "vae"
    arrays = weights(source)
    (source / "diffusion_pytorch_model.safetensors").unlink()
    names = {name: array for (_, name), array in arrays.items()}
    torch_files.write_zip(source / "diffusion_pytorch_model.bin", names)
    convert(source, tmp_path / "out")
    assert_same(weights(tmp_path / "out"), arrays)
    with pytest.raises(InputError, match="is a AutoencoderKL alone|is an AutoencoderKL alone"):
        convert(source, tmp_path / "run", to="marble")


def test_a_unet_with_its_scheduler_beside_it_is_a_model(tmp_path):
    source = published.pixels(tmp_path / "in")
    shutil.copyfile(source / "scheduler" / "scheduler_config.json", source / "unet" / "scheduler_config.json")
    convert(source / "unet", tmp_path / "run")
    params = loading.load_params(str(tmp_path / "run"))[2]
    assert_same_params(params, params_of_part(open_part(source / "unet")))
    convert(source / "unet", tmp_path / "half", to="diffusers", dtype="float16")
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == sorted(
        path.name for path in (source / "unet").iterdir()
    )


TINY = TinyAutoencoder(channels=64, num_blocks=(1, 3, 3, 3), decoder_num_blocks=(1, 3, 3, 3))


def test_the_two_files_of_taesd(tmp_path):
    config = taesd.config_of(TINY)
    params = published.random_params(TINY, config, taesd.NAME)
    named = dict(tensors_of(taesd.table(TINY), params))
    for half in ("encoder", "decoder"):
        # The published decoder counts a layer more.
        number = lambda name, half=half: int(name.split(".")[2]) + (half == "decoder")  # noqa: E731
        loose = {
            ".".join([str(number(name)), *name.split(".")[3:]]): array
            for name, array in named.items()
            if name.startswith(half)
        }
        published.write_file(tmp_path / f"taesd_{half}.safetensors", loose)
    convert(tmp_path, tmp_path / "out")
    assert_same({name: array for (_, name), array in weights(tmp_path / "out").items()}, named)
    part = open_part(tmp_path / "out")
    assert part.model == TINY and taesd.scale_of(part.config) == 1
    with pytest.raises(InputError, match="is a TAESD alone"):
        convert(tmp_path, tmp_path / "run", to="marble")


SD = dict(channels=32, channel_mult=(1, 2), num_res_blocks=1)
SD_UNET = ConditionalUNet(**SD, transformer_depth=(1, 0), num_heads=(8, 8), text_channels=768)
SD_VAE = AutoencoderKL(**SD)
SD_TEXT = ClipText(
    vocab_size=published.WORDS, width=768, num_layers=1, num_heads=12, hidden=16, eos_token_id=published.WORDS - 1
)


def compvis_file(path):
    """(a file by CompVis' names, its networks' arrays by diffusers')."""
    configs = {
        "unet": conditional_unet.config_of(SD_UNET),
        "vae": autoencoder_kl.config_of(SD_VAE, scale=0.18215),
        "text_encoder": clip.config_of(SD_TEXT),
    }
    tables = {
        "unet": (SD_UNET, conditional_unet.table(SD_UNET), conditional_unet.NAME),
        "vae": (SD_VAE, autoencoder_kl.table(SD_VAE), autoencoder_kl.NAME),
        "text_encoder": (SD_TEXT, clip.table(SD_TEXT), "CLIPTextModel"),
    }
    arrays = {
        part: dict(tensors_of(table, published.random_params(model, configs[part], kind)))
        for part, (model, table, kind) in tables.items()
    }
    written = compvis.to_compvis({part: held(found) for part, found in arrays.items()}, configs)
    published.write_file(path, {name: tensor.read() for name, tensor in written})
    return path, arrays


def test_a_stable_diffusion_by_compvis_names(tmp_path):
    source, arrays = compvis_file(tmp_path / "sd.safetensors")
    words = vocabularies.write_clip(tmp_path / "tokenizer", **vocabularies.of_stable_diffusion(1))
    for to in ("marble", "diffusers"):
        with pytest.raises(InputError, match="has no tokenizer in it: set --tokenizer FOLDER"):
            convert(source, tmp_path / "out", to=to)
    convert(source, tmp_path / "theirs", to="diffusers", tokenizer=[words])
    expected = {(part, name): array for part, found in arrays.items() for name, array in found.items()}
    found = {(Path(path).parent.name, name): array for (path, name), array in weights(tmp_path / "theirs").items()}
    assert_same(found, expected)
    convert(source, tmp_path / "ours", tokenizer=[words])
    convert(tmp_path / "theirs", tmp_path / "again")
    _, experiment, params = loading.load_params(str(tmp_path / "ours"))
    assert_same_params(params, loading.load_params(str(tmp_path / "again"))[2])
    assert experiment.objective.model == SD_UNET and experiment.image.shape == (512, 512, 3)
    ours, again = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "again"))
    assert ours == again


def test_a_ddpm_of_the_first_copies(tmp_path):
    model = UNet(**SD, attention_resolutions=(4,), epsilon=1e-6, time_convention="ddpm", pads_both_sides=False)
    config = ddpm.config_of(model, sample_size=8, in_channels=3)
    shapes = shapes_of(model, config, ddpm.NAME)
    source = tmp_path / "model.safetensors"
    params = published.write_table(source, ddpm.original_table(model, 8), shapes, prefix="module.")
    with pytest.raises(InputError, match="does not say its images' height: set --image_size"):
        convert(source, tmp_path / "none")
    convert(source, tmp_path / "ours", image_size=8)
    _, experiment, found = loading.load_params(str(tmp_path / "ours"))
    assert_same_params(found, params)
    assert experiment.objective.model == model and experiment.image.shape == (8, 8, 3)
    convert(source, tmp_path / "theirs", to="diffusers", image_size=8)
    assert_same_params(params_of_part(open_part(tmp_path / "theirs" / "unet")), params)


def adm_file(path, **changes):
    model = AdmUNet(**SD, attention_resolutions=(4,), out_channels=6, num_heads=4).clone(**changes)
    return model, published.write_table(path, adm.table(model, 8), adm.shapes_of(model, 8))


def test_an_adm(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model, params = adm_file(tmp_path / "model.safetensors", num_classes=5)
    convert(tmp_path / "model.safetensors", tmp_path / "run", image_size=8)
    assert "assumed: num_heads 4" in caplog.text and "none of the published models" in caplog.text
    config, data = loading.recalled(str(tmp_path / "run"))
    _, experiment, found = loading.load_params(str(tmp_path / "run"))
    assert_same_params(found, params)
    assert experiment.objective.model == model and data.image.shape == (8, 8, 3)
    assert config["diffusion"]["variance_type"] == config["sampling"]["variance_type"] == "learned_range"
    assert (config["diffusion"]["beta_start"], config["diffusion"]["beta_end"]) == (1e-4, 0.02)
    with pytest.raises(InputError, match="network of ADM, which diffusers does not have: set --to marble"):
        convert(tmp_path / "model.safetensors", tmp_path / "out", to="diffusers", image_size=8)


def unread(table, shapes):
    """Tensors of a table whose numbers are not to be read."""
    ours = flat(shapes)
    return {
        e.theirs: Tensor(
            e.layout.to_theirs(np.broadcast_to(np.float32(0), ours[e.ours].shape)).shape, np.dtype("f4"), None
        )
        for e in table
    }


def published_adm(name):
    found = next(found for found in adm.PUBLISHED if name in found.files)
    table, shapes = adm.table(found.model, found.image_size), adm.shapes_of(found.model, found.image_size, 3)
    return files_of_papers.model_of(file_kinds.File("ADM", unread(table, shapes), Path(name)), image_size=None)


def test_the_process_of_a_published_adm():
    made = published_adm("64x64_diffusion.pt")
    assert made.config["diffusion"] == dict(
        beta_schedule="squaredcos_cap_v2",
        num_train_timesteps=1000,
        prediction_type="eps",
        variance_type="learned_range",
    )
    made = published_adm("imagenet64_cond_270M_250K.pt")
    assert made.config["diffusion"]["num_train_timesteps"] == 4000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10_uncond_50M_500K.pt", "told the step times 0.25 .* can't be converted"),
        ("64_256_upsampler.pt", "is an upsampler, which reads a small image"),
    ],
)
def test_what_marble_has_no_pipeline_of(name, message):
    with pytest.raises(InputError, match=message):
        published_adm(name)


def test_a_classifier_is_no_model_of_images():
    model = AdmClassifier(**SD, attention_resolutions=(4,))
    tensors = unread(adm.table(model, 8), adm.shapes_of(model, 8))
    with pytest.raises(InputError, match="is a classifier that guides another model"):
        files_of_papers.model_of(file_kinds.File("ADM", tensors, Path("c.pt")), image_size=None)


def test_a_dit_by_the_paper_s_names(tmp_path):
    model = DiT(8, 2, 384, 1, 6, num_classes=3, grid_size=2)
    shapes = shapes_of(model, {"sample_size": 4, "in_channels": 4}, dit.NAME)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: draw.standard_normal(s.shape).astype(np.float32), shapes)
    arrays = dict(dit.fused(tensors_of(dit.original_table(model), params), model))
    source = published.write_file(tmp_path / "dit.safetensors", arrays)
    vae = published.stable_diffusion(tmp_path / "sd") / "vae"
    with pytest.raises(InputError, match="with no autoencoder in it: set --vae FOLDER"):
        convert(source, tmp_path / "none")
    with pytest.raises(InputError, match="--vae .*text_encoder is a CLIPTextModel, which is no autoencoder"):
        convert(source, tmp_path / "none", vae=vae.parent / "text_encoder")
    convert(source, tmp_path / "run", vae=vae)
    _, experiment, found = loading.load_params(str(tmp_path / "run"))
    assert_same_params(found, params)
    assert experiment.objective.model == model and experiment.image.shape == (8, 8, 3)
    assert experiment.objective.conditioner.has_null
    for name in ("diffusers' has other sinusoids of the time",):
        with pytest.raises(InputError, match=name):
            convert(source, tmp_path / "out", to="diffusers", vae=vae)


def test_a_network_within_a_training_s_checkpoint_is_its_average(tmp_path):
    model = AdmUNet(**SD, attention_resolutions=(4,))
    trees = {part: published.write_table(tmp_path / part, adm.table(model, 8), adm.shapes_of(model, 8), seed)
             for seed, part in enumerate(("ema", "model"))}  # fmt: skip
    arrays = {part: {n: t.read() for n, t in files.read(tmp_path / part).items()} for part in trees}
    torch_files.write_zip(tmp_path / "all.pt", {"model": arrays["model"], "ema": arrays["ema"]})
    assert file_kinds.opened(tmp_path / "all.pt").kind == "ADM"
    convert(tmp_path / "all.pt", tmp_path / "run", image_size=8)
    assert_same_params(loading.load_params(str(tmp_path / "run"))[2], trees["ema"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.double_blocks.0.weight", "is Flux; supported are Stable Diffusion by CompVis"),
        ("model.diffusion_model.joint_blocks.0.weight", "is Stable Diffusion 3; supported are"),
        ("down_blocks.0.resnets.0.conv1.weight", "is a network by diffusers' names, .* give its folder; supported are"),
        ("weight", "holds none of the networks that are known; supported are"),
    ],
)
def test_other_files_are_refused_with_what_is_supported(name, message):
    with pytest.raises(InputError, match=f"^it {message}.*iDDPM and ADM.*DiT.*DDPM"):
        kind_of_file(held({name: np.zeros(1)}), "it")


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusion3Pipeline"])
@pytest.mark.parametrize("to", ["marble", "diffusers"])
def test_pipelines_of_other_models_are_refused_by_name(name, to, tmp_path):
    published.write_json(tmp_path / "in" / "model_index.json", {"_class_name": name})
    with pytest.raises(InputError, match=f"{name} is not supported: what is, is StableDiffusionPipeline"):
        convert(tmp_path / "in", tmp_path / "out", to=to)
    assert_nothing_at(tmp_path / "out")


def test_wrong_input_is_told(tmp_path, digits, monkeypatch):
    source = published.pixels(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    cases = [
        (dict(source=tmp_path / "nowhere", out=tmp_path / "out"), "is not there: give a workdir, a folder"),
        (dict(source=tmp_path / "empty", out=tmp_path / "out"), "is neither a workdir .* nor a folder of diffusers"),
        (dict(source=source, out=source), "--out .* is a folder with something in it: give a new name"),
        (dict(source=source, out=tmp_path / "file"), "--out .* is a file: give a new name"),
        (dict(source=source, out=tmp_path / "file" / "out"), "--out .* can't be made"),
        (dict(source=source, out="gs://bucket/out"), "is in a bucket: give a path of this machine"),
        (dict(source=digits, out=tmp_path / "out", to="marble"), "is a workdir of marble already"),
        (dict(source=digits, out=tmp_path / "out", image_size=8), "--image_size is not read of a run: leave it out"),
        (dict(source=source, out=tmp_path / "out", step=1), "--step is not read of a folder"),
        (dict(source=source, out=tmp_path / "out", dtype="int8"), "--dtype int8 must be one of float32, bfloat16"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            convert(**arguments)
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "empty")  # an empty folder will do
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: free)
    with pytest.raises(InputError, match=r"takes 1\.\d MB, and its disk has 1\.0 MB free: make room"):
        convert(source, tmp_path / "out")
    assert_nothing_at(tmp_path / "out")


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    source = published.stable_diffusion(tmp_path / "in")

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("marble.conversion.to_marble.workdir.remember", fails)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not any((tmp_path / "out").iterdir())


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    source = published.pixels(tmp_path / "in")
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    arrays = {name: t.read() for name, t in files.read(path).items() if name != "conv_in.bias"}
    published.write_file(path, arrays)
    monkeypatch.setattr("marble.conversion.planning.new_folder", None)
    for to in ("marble", "diffusers"):
        with pytest.raises(InputError, match="does not fit its config: conv_in.bias"):
            convert(source, tmp_path / "out", to=to)
