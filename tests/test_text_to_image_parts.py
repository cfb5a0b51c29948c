"""The parts of text to image, trained one after the other by their configs, and used together."""

import os

import jax
import numpy as np
import originals
import pytest
from PIL import Image
from trained_parts import train, train_on_classes

from marble import builders, loading, run
from marble.cli import sample
from marble.config import load_config
from marble.configs import cifar10_text
from marble.configs.emoji import PROMPTS
from marble.conversion import convert
from marble.data.prepare import prepare
from marble.data.sources import open_source
from marble.errors import InputError
from marble.models import Bert, TinyAutoencoder

pytestmark = pytest.mark.slow  # minutes, nearly all of them XLA's: each part has tests of its own


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A workdir for each part."""
    return train(tmp_path_factory.mktemp("parts"), "autoencoder", "clip", "latent", "upsampler", "regression")


def test_a_text_becomes_pictures(parts):
    pipe = loading.load(str(parts / "latent"))
    options = dict(seed=1, steps=2, guidance_scale=2.0)
    images = pipe.sample(3, text=["a red square on the left", "", "something else"], **options)
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    alone = pipe.sample(1, first=2, text="something else", **options)
    assert np.abs(alone[0].astype(int) - images[2]).max() <= 1
    picture = Image.open(parts / "latent" / "samples" / "0000002.png")
    assert len(PROMPTS) == 10 and picture.size[0] >= 16 * 8


@pytest.mark.parametrize("name", ["upsampler", "regression"])
def test_small_pictures_become_large_ones(parts, name):
    """Each of its own small one; a diffusion model draws, and a plain one answers."""
    pipe = loading.load(str(parts / name))
    side = 16
    small = np.random.default_rng(0).integers(0, 256, (5, side, side, 3)).astype(np.uint8)
    images = pipe.sample(5, low_res=small, seed=3)
    assert images.shape == (5, 2 * side, 2 * side, 3)
    alone = pipe.sample(1, low_res=small[4], first=4, seed=3)
    assert np.abs(alone[0].astype(int) - images[4]).max() <= 1
    # After two steps what is added to the small image is little, and drawn all the same.
    one, other = (pipe.sample(5, low_res=small, seed=seed, as_float=True) for seed in (3, 4))
    assert (name == "regression") == np.array_equal(one, other)
    with pytest.raises(InputError, match=rf"low_res of shape \[5, {side}, 2, 3\]: give \[5 {side} {side} 3\] or \[1 "):
        pipe.sample(5, low_res=small[:, :, :2])
    with pytest.raises(InputError, match=r"this model makes images larger: give low_res"):
        pipe.sample(5)


def test_a_plain_upsampler_begins_as_interpolation(parts):
    """Its last layer starts at 0: with the initial parameters it is cubic interpolation of the means of squares."""
    pipe = loading.load(str(parts / "regression"))
    experiment = builders.build(*run_parts(parts / "regression"))
    small = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    initial = jax.jit(experiment.init_params)()
    found = pipe.sample(2, low_res=small, params=initial, as_float=True)
    expected = jax.image.resize(small, (2, 32, 32, 3), "bicubic")
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=1e-5)


def run_parts(workdir):
    config, data = loading.recalled(str(workdir))
    return config, data.image


def test_the_command_makes_them_larger(parts, tmp_path):
    """From a text to pictures of 16x16, and from these to 32x32, by the configs as they are shipped."""
    words = ["--workdir", str(parts / "latent"), "--num", "2", "--steps", "2", "--text", "a red square"]
    larger = ["--upsampler", str(parts / "upsampler")]
    assert sample.main([*words, *larger, "--gif", "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "out" / "samples.npz") as kept:
        images = kept["arr_0"]
    assert images.shape == (2, 32, 32, 3)
    small = loading.load(str(parts / "latent")).sample(2, steps=2, text="a red square")
    expected = loading.load(str(parts / "upsampler")).sample(2, low_res=small)
    assert np.abs(images.astype(int) - expected).max() <= 1
    with pytest.raises(InputError, match="is of a model that makes no images larger: give one of"):
        sample.main([*words, "--upsampler", str(parts / "latent"), "--out", str(tmp_path / "no")])
    with pytest.raises(InputError, match="reads images of 16x16x3, and --workdir .*latent draws 32x16x3: give"):
        sample.main([*words, *larger, "--height", "32", "--out", str(tmp_path / "no")])


def test_parts_are_no_pipelines_of_diffusers(parts, tmp_path):
    for name, folder in {"autoencoder": "vae", "clip": "clip"}.items():
        with pytest.raises(InputError, match=f"its network is in the workdir's folder {folder}, as that and"):
            convert(str(parts / name), str(tmp_path / name), to="diffusers")


@pytest.mark.skipif(
    not {"MARBLE_TAESD", "MARBLE_MINILM"} <= {*os.environ}, reason="MARBLE_TAESD and MARBLE_MINILM name no folders"
)
def test_between_pretrained_ends_the_middle_part_alone_is_trained(parts, tmp_path):
    """TAESD and MiniLM stay as they were published, and stand in no checkpoint."""
    minilm, taesd = os.environ["MARBLE_MINILM"], tmp_path / "taesd"
    convert(os.environ["MARBLE_TAESD"], str(taesd))
    config = load_config("emoji/latent:smoke")
    config.data.update({"source": str(parts / "data"), "data_dir": str(parts / "prepared"), "image_size": 32})
    config.autoencoder.update({"path": str(taesd), "cache": str(tmp_path / "latents")})
    config.text.update({"encoders": (minilm,), "tokenizers": (minilm,)})
    config.model.text_channels = 384
    complete = builders.complete(config)
    state = run.run(complete, str(tmp_path / "run"))
    pipe = loading.load(str(tmp_path / "run"))
    assert {type(pipe.codec.model), type(pipe.conditioner.encoders[0].model)} == {TinyAutoencoder, Bert}
    images = pipe.sample(2, steps=2, text=["a red square", "ein rotes Quadrat"], guidance_scale=2.0)
    assert images.shape == (2, 32, 32, 3) and images.std() > 5
    held = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    of_ends = sum(leaf.size for leaf in jax.tree.leaves(state.frozen))
    assert of_ends > 24_000_000 > held  # 22.7 million of MiniLM, 2.4 of TAESD
    kept = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file())
    assert kept < 4 * 5 * held  # the means, Adam's two and the parameters, with their names


def test_the_names_of_classes_are_texts_too(tmp_path):
    """The family of CIFAR-10: its parts are trained, and one draws what it is told."""
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (num, 32, 32, 3), np.uint8), np.arange(num) % 10)
        for split, num in (("train", 50), ("test", 10))
    }
    originals.write_cifar10(splits, tmp_path / "originals")
    prepare("cifar10", source=str(tmp_path / "originals"), data_dir=str(tmp_path / "data"))
    parts = train_on_classes(tmp_path, "autoencoder", "clip", "latent", "upsampler", data_dir=tmp_path / "data")
    pipe = loading.load(str(parts / "latent"))
    images = pipe.sample(2, steps=2, text=["a photo of a cat", "a photo of a ship"], guidance_scale=2.0)
    assert images.shape == (2, 32, 32, 3)
    source = open_source("cifar10", data_dir=str(tmp_path / "data"))
    assert tuple(source.class_names) == cifar10_text.CLASSES
