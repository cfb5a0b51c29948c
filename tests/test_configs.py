"""Every shipped config: its full size by shape, its smoke variant by two real steps and a sample."""

import math

import jax
import numpy as np
import originals
import pytest
from PIL import Image
from tables import rest_slow

from marble import builders, run
from marble.config import load_config, shipped_configs
from marble.loading import load
from marble.pipelines import ImageSpec

SIZES = {
    # config: image shape, parameters. Those of the paper's models are known; of image_folder diffusers counts as many.
    "digits": ((8, 8, 1), None),
    "digits_vae": ((8, 8, 1), None),
    "mnist": ((28, 28, 1), None),
    "fashion_mnist": ((28, 28, 1), None),
    "cifar10": ((32, 32, 3), 35_746_307),
    "celebahq256": ((256, 256, 3), 113_673_219),
    "lsun_church256": ((256, 256, 3), 113_673_219),
    "image_folder": ((64, 64, 3), 28_482_307),
}


PARTS = ("autoencoder", "clip", "latent", "upsampler")
OF_PARTS = tuple(f"{family}/{part}" for family in ("emoji", "cifar10_text") for part in PARTS)
"""The parts of text to image, of which one reads the others: tests/test_text_to_image_parts.py trains them."""
OF_CHECKPOINTS = ("finetune", "lora")
"""Configs that take most of what they say from a checkpoint: tests/test_fine_tuning.py trains with them."""


def test_every_config_is_tested():
    assert set(shipped_configs()) == {*SIZES, *OF_PARTS, *OF_CHECKPOINTS}


@pytest.mark.parametrize("variant", ["", ":quick", ":tiny", ":smoke"])
def test_parts_of_text_to_image_fit_each_other(variant):
    """In every variant that the script can be told: what one leaves is what the next one reads."""
    autoencoder, clip, latent, upsampler = (load_config(f"emoji/{part}{variant}") for part in PARTS)
    assert autoencoder.data == clip.data == latent.data
    assert upsampler.data.image_size == upsampler.low_res.factor * latent.data.image_size
    assert latent.model.text_channels == clip.text_model.width
    plain = load_config(f"emoji/upsampler{variant}_regression" if variant else "emoji/upsampler:regression")
    assert plain.data == upsampler.data and plain.upsampler.factor == upsampler.low_res.factor
    of_classes = [load_config(f"cifar10_text/{part}{variant}") for part in PARTS]
    assert {config.data.name for config in of_classes} == {"cifar10"}


@pytest.mark.parametrize("name", SIZES)
def test_full_size(name):
    shape, parameters = SIZES[name]
    experiment = builders.build(builders.complete(load_config(name)), ImageSpec(shape, 256))
    params = jax.eval_shape(experiment.init_params)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert parameters in (None, count)
    outputs = jax.eval_shape(
        lambda p, a: experiment.objective.model.apply({"params": p}, *a), params, experiment.objective.model_inputs()
    )
    assert {output.shape for output in jax.tree.leaves(outputs)} == {(1, *shape)}


@pytest.mark.parametrize("name", [*SIZES, *OF_PARTS, *OF_CHECKPOINTS])
def test_docstrings_say_what_an_experiment_needs(name):
    text = shipped_configs()[name].read_text().split('"""')[1]
    assert all(word in text for word in ("Paper ", "Command ", "Hardware ", "Expected ", "Variants ")), text
    assert f"marble train --config configs/{name}.py --workdir runs/{name}" in text


def test_the_papers_recipe_for_cifar10_to_the_letter():
    config = load_config("cifar10")
    assert (config.training.batch_size, config.training.num_steps, config.training.ema_decay) == (128, 800_000, 0.9999)
    optimizer = config.optimizer.to_dict()
    assert optimizer == dict(
        name="adam", learning_rate=2e-4, warmup_steps=5000, b1=0.9, b2=0.999, eps=1e-8, clip_norm=1.0
    )
    assert config.model.dropout == 0.1 and config.data.flip


def write_pictures(splits, folder):
    """A folder of small pictures, for the configs that read one."""
    folder.mkdir()
    for i, image in enumerate(splits["train"][0]):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


WRITERS = {
    # config: what writes its originals, and the shape of their images
    "mnist": (originals.write_mnist, (28, 28)),
    "fashion_mnist": (originals.write_mnist, (28, 28)),
    "cifar10": (originals.write_cifar10, (32, 32, 3)),
    "celebahq256": (write_pictures, (40, 36, 3)),
    "image_folder": (write_pictures, (40, 36, 3)),
}


def random_images(shape, *, train=50, test=10):
    """{split: (images, labels)} of noise."""
    rng = np.random.default_rng(0)
    return {
        s: (rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 10)
        for s, n in (("train", train), ("test", test))
    }


SMOKE = (
    *("digits", "digits_vae", "mnist", "fashion_mnist", "cifar10", "celebahq256", "image_folder"),
    *("digits:conditional", "digits_vae:gaussian"),
)
"""What the others add is in other tests: larger networks, a folder, labels, and the other likelihood."""


@pytest.mark.parametrize("name", rest_slow(SMOKE, "digits", "digits_vae"))
def test_smoke_trains_and_samples(name, tmp_path):
    base, _, variant = name.partition(":")
    config = builders.complete(load_config(f"{base}:smoke"))
    if variant == "conditional":
        config.model.num_classes, config.training.label_dropout = 10, 0.5
    if variant == "gaussian":
        config.vae.likelihood = "gaussian"
    if base in WRITERS:
        write, shape = WRITERS[base]
        source = write(random_images(shape), tmp_path / "originals")
        config.data.source, config.data.data_dir = str(source), str(tmp_path / "data")
    state = run.run(config, str(tmp_path / "run"))
    assert int(state.step) == 2 and not state.diverged
    pipe = load(str(tmp_path / "run"))
    images = pipe.sample(3, labels=[1, 2, 3] if variant == "conditional" else None)
    assert images.shape == (3, *pipe.image.shape) and images.dtype == np.uint8
    picture = np.asarray(Image.open(tmp_path / "run" / "samples" / "0000002.png"))
    assert picture.std() > 0
