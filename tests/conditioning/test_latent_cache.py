"""Latents that are kept: the same training as without, and refused where they are of something else."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
from captioned import write
from processes import metrics

from marble import builders, run
from marble.conditioning import Autoencoder, Origin, latents
from marble.convert.latents import open_autoencoder
from marble.data.declared import Declared
from marble.data.examples import ArrayExamples
from marble.errors import InputError
from marble.parallel import ParallelConfig
from marble.plan import batch_shapes
from marble.typing import ImageSpec

IMAGE = ImageSpec((16, 16, 3), 256)
IMAGES = np.random.default_rng(0).integers(0, 256, (150, *IMAGE.shape)).astype(np.uint8)
EXAMPLES = ArrayExamples(IMAGES, np.arange(150, dtype=np.int32), [f"image {i}" for i in range(150)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoders")
    for seed in (0, 1):
        small_networks.write(folder / str(seed), small_networks.autoencoder(), seed=seed)
    return folder


def codec_of(folder, image=IMAGE):
    model, params, scale = open_autoencoder(str(folder))
    return Autoencoder(params, model, image, scale, path=str(folder))


def origin(*, flips=False, originals="data-1", split="train"):
    return Origin(split, originals, flips, ParallelConfig().open())


def test_what_is_kept_is_what_the_encoder_says(folders, tmp_path):
    codec = codec_of(folders / "0")
    found = latents.cached(str(tmp_path / "kept"), codec, EXAMPLES, origin(flips=True))
    latent = found.take(np.arange(150))["latent"]
    x = 2 * IMAGES.astype(np.float32) / 255 - 1
    for i, images in enumerate((x, x[:, :, ::-1])):
        np.testing.assert_allclose(latent[:, i], jax.jit(codec.moments)(images), atol=1e-5)
    np.testing.assert_array_equal(found.take([3, 5])["label"], [3, 5])
    assert found[7]["text"] == "image 7" and "image" not in found[7]


def test_what_was_begun_is_gone_on_with(folders, tmp_path, monkeypatch):
    """After a stop, what is on the disk is not encoded again, and the whole is as without one."""
    codec, made = codec_of(folders / "0"), []
    whole = latents.cached(str(tmp_path / "whole"), codec, EXAMPLES, origin()).take(np.arange(150))["latent"]
    monkeypatch.setattr(latents, "KEPT_EVERY", 1)
    program_of = latents._program

    def stops(codec, mapping, copies):
        program = program_of(codec, mapping, copies)

        def run_one(images):
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(len(images))
            return program(images)

        return run_one

    monkeypatch.setattr(latents, "_program", stops)
    with pytest.raises(KeyboardInterrupt):
        latents.cached(str(tmp_path / "kept"), codec, EXAMPLES, origin())
    made.clear()
    again = latents.cached(str(tmp_path / "kept"), codec, EXAMPLES, origin()).take(np.arange(150))["latent"]
    assert made == [64]
    np.testing.assert_array_equal(again, whole)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"latents.json", "train.npy", "train.json"}


def test_killed_between_two_counts_and_again_each_latent_has_its_own_text(tmp_path, monkeypatch):
    """A kill leaves what is on the disk at that moment: a copy of the folder."""
    monkeypatch.setattr(latents, "KEPT_EVERY", 2)

    def put(kept, numbers):
        for i in numbers:
            kept.add(i, np.full((1, 1, 1, 1, 2), i, np.float32), [{"label": i, "text": f"image {i}"}])

    def killed(name, after):
        return shutil.copytree(after, tmp_path / name)

    (tmp_path / "begun").mkdir()
    kept = latents._Kept(tmp_path / "begun", "train", (7, 1, 1, 1, 2))
    assert kept.open() == 0
    put(kept, range(3))
    for name, after in (("once", "begun"), ("twice", "once"), ("whole", "twice")):
        folder = killed(name, tmp_path / after)
        kept = latents._Kept(folder, "train", (7, 1, 1, 1, 2))
        assert kept.open() == 2
        put(kept, [2])
    put(kept, range(3, 7))
    kept.close()
    assert json.loads((folder / "train.json").read_text())["text"] == [f"image {i}" for i in range(7)]
    np.testing.assert_array_equal(np.load(folder / "train.npy")[:, 0, 0, 0, 0], range(7))


def test_latents_of_something_else_are_refused(folders, tmp_path):
    kept, codec = str(tmp_path / "kept"), codec_of(folders / "0")
    latents.cached(kept, codec, EXAMPLES, origin())
    with pytest.raises(InputError, match=r"has latents of another autoencoder, [0-9a-f]{16} of .*/0, .* of .*/1: give"):
        latents.cached(kept, codec_of(folders / "1"), EXAMPLES, origin())
    halved = codec.replace(model=codec.model.clone(dtype=jnp.bfloat16))
    with pytest.raises(InputError, match="computed in float32, and autoencoder.dtype=bfloat16: give"):
        latents.cached(kept, halved, EXAMPLES, origin())
    with pytest.raises(InputError, match="has latents of other images, data-1 of the shape"):
        latents.cached(kept, codec, EXAMPLES, origin(originals="data-2"))
    with pytest.raises(InputError, match="has no latents of mirrored images, and data.flip is set"):
        latents.cached(kept, codec, EXAMPLES, origin(flips=True))
    with pytest.raises(InputError, match="is in a bucket"):
        latents.cached("gs://bucket/kept", codec, EXAMPLES, origin())
    (tmp_path / "kept" / "latents.json").write_text("{")
    with pytest.raises(InputError, match="latents.json is damaged: remove the folder"):
        latents.cached(kept, codec, EXAMPLES, origin())


def config_of(folders, data, cache, *, clip):
    words = {"encoders": [str(folders / "clip")], "tokenizers": [str(folders / "words")], "captions": True}
    return builders.complete(
        {
            "seed": 0,
            "data": {"name": "image_folder", "source": str(data), "data_dir": f"{data}-tfds", "flip": True},
            "codec": "autoencoder",
            "autoencoder": {"path": str(folders / "0"), "cache": cache},
            "conditioner": "text",
            "text": {**words, "prompts": ["a red square on the left", "a blue square on the right"], **clip},
            "model": {
                **{"name": "conditional_unet", "channels": 8, "channel_mult": (1,), "num_res_blocks": 1},
                **{"num_groups": 4, "transformer_depth": (1,), "num_heads": (2,), "text_channels": 12},
            },
            "diffusion": {"beta_schedule": "scaled_linear", "num_train_timesteps": 100},
            "optimizer": {"name": "adam", "learning_rate": 1e-3},
            "training": {
                **{"batch_size": 16, "num_steps": 4, "ema_decay": 0.5, "log_every": 1, "eval_every": 2},
                **{"sample_every": 0, "checkpoint_every": 4},
            },
            "sampling": {"sampler": "ddim", "num_steps": 2, "batch_size": 8},
        }
    )


@pytest.fixture(scope="module")
def captions(folders, tmp_path_factory):
    """Captioned images, of which three captions are empty, and what is told of them."""
    folder = tmp_path_factory.mktemp("captions")
    small_networks.write(folders / "clip", small_networks.clip_text())
    small_networks.write_tokenizer(folders / "words")
    return write(folder / "data", empty=3)


@pytest.mark.slow
def test_a_run_is_the_same_with_a_cache(folders, captions, tmp_path):
    runs = tmp_path
    for name, cache in {"kept": str(runs / "latents"), "encoded": None}.items():
        run.run(config_of(folders, captions, cache, clip={}), str(runs / name))
    kept, encoded = metrics(runs / "kept"), metrics(runs / "encoded")
    for ours, theirs in zip(kept, encoded, strict=True):
        for key in {"loss", "heldout_loss", "grad_norm"} & set(ours):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4)
    assert any("heldout_loss" in line for line in kept)
    facts = json.loads((runs / "latents" / "latents.json").read_text())
    assert facts["flips"] and (runs / "latents" / "test.npy").exists()


def test_data_without_captions_are_refused(folders, captions, tmp_path):
    config = config_of(folders, captions, None, clip={})
    config.data.name, config.data.source, config.data.data_dir = "digits", None, None
    config.codec = "identity"
    del config["autoencoder"]
    with pytest.raises(InputError, match="the data have no texts, and this model is told each image's own"):
        run.run(builders.complete(config.to_dict()), str(tmp_path / "run"))


def test_a_plan_knows_the_tokens_and_encodes_nothing(folders, captions, tmp_path):
    config = config_of(folders, captions, str(tmp_path / "kept"), clip={})
    images = Declared(IMAGE.shape, 256, None)
    shapes = batch_shapes(builders.build(config, IMAGE), images, ParallelConfig().open())
    assert {name: row.shape for name, row in shapes.items()} == {
        "image": (1, 16, *IMAGE.shape),
        "index": (1, 16),
        "tokens_0": (1, 16, small_networks.MAX_LENGTH),
    }
    assert not (tmp_path / "kept").exists()


def test_a_template_is_not_for_captions(folders, captions):
    config = config_of(folders, captions, None, clip={"template": "a {}"})
    with pytest.raises(InputError, match="text.template='a {}' is of classes, and text.captions is set: leave one out"):
        builders.build(config, IMAGE)
