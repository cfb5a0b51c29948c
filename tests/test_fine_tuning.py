"""A published checkpoint, trained on: whole, and by adapters alone."""

from pathlib import Path

import jax
import numpy as np
import pytest
import small_pipelines
from PIL import Image
from processes import assert_same_run

from marble import checkpoint, loading, run
from marble.cli.main import main
from marble.cli.train import configured
from marble.convert.names import flat

SHORT = [
    "--config.training.sample_every=0",
    "--config.training.checkpoint_every=2",
    "--config.training.log_every=1",
    "--config.training.batch_size=8",
    "--config.optimizer.learning_rate=0.01",
    "--config.optimizer.warmup_steps=0",
]
TEXT = dict(text=["a red fox", "a cat"], steps=3, seed=1, as_float=True)


@pytest.fixture(scope="module")
def checkpoint_and_images(tmp_path_factory):
    """A small Stable Diffusion, and a folder of images in which a folder's name is their text."""
    folder = tmp_path_factory.mktemp("published")
    small_pipelines.stable_diffusion(folder / "sd")
    draw = np.random.default_rng(0)
    for name in ("a red fox", "a cat"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = draw.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    return folder


def words_of(folder, name, num_steps):
    data = [f"--config.data.source={folder / 'images'}", f"--config.data.data_dir={folder / 'data'}"]
    return [f"configs/{name}.py:{folder / 'sd'}", [*SHORT, *data, f"--config.training.num_steps={num_steps}"]]


@pytest.fixture(scope="module")
def adapted(checkpoint_and_images):
    """A run of adapters, of 4 steps."""
    workdir = str(checkpoint_and_images / "lora")
    run.run(configured(*words_of(checkpoint_and_images, "lora", 4)), workdir)
    return workdir


def test_adapters_alone_are_trained_and_kept(adapted, checkpoint_and_images):
    _, experiment, whole = loading.load_params(adapted)
    _, _, base = loading.load_params(str(checkpoint_and_images / "sd"))
    before, after = flat(base), flat(whole)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {
        path
        for path in before
        if "attention" in path
        and path.split("/")[-2:][0] in ("query", "key", "value", "proj")
        and path.endswith("kernel")
    }
    saved = checkpoint.restore(adapted, 4, {"params": jax.eval_shape(experiment.init_params)})["params"]
    assert set(flat(saved)) == {f"{path}/{half}" for path in moved for half in ("down", "up")}
    largest = max(path.stat().st_size for path in (checkpoint_and_images / "lora" / "checkpoints").rglob("*"))
    assert largest < sum(array.nbytes for array in before.values())


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_bits(adapted, checkpoint_and_images):
    stopped = str(checkpoint_and_images / "stopped")
    for num_steps in (2, 4):
        run.run(configured(*words_of(checkpoint_and_images, "lora", num_steps)), stopped)
    assert_same_run(Path(adapted), Path(stopped))


@pytest.mark.slow
def test_the_file_of_a_run_s_adapters_makes_the_run_s_images(adapted, checkpoint_and_images):
    assert main(["convert", adapted, str(checkpoint_and_images / "file"), "--to", "lora"]) == 0
    (file,) = (checkpoint_and_images / "file").iterdir()
    base = str(checkpoint_and_images / "sd")
    images = loading.load(adapted).sample(2, **TEXT)
    np.testing.assert_allclose(loading.load(base, lora=str(file)).sample(2, **TEXT), images, atol=2e-6)
    plain = loading.load(base).sample(2, **TEXT)
    assert np.abs(plain - images).max() > 1e-5
    np.testing.assert_allclose(loading.load(base, lora=str(file), lora_scale=0.0).sample(2, **TEXT), plain, atol=1e-6)


@pytest.mark.slow
def test_the_whole_network_is_trained_and_nothing_else(checkpoint_and_images):
    workdir = str(checkpoint_and_images / "whole")
    state = run.run(configured(*words_of(checkpoint_and_images, "finetune", 1)), workdir)
    _, _, base = loading.load_params(str(checkpoint_and_images / "sd"))
    before, after = flat(base), flat(jax.device_get(state.params))
    assert set(before) == set(after)
    assert all(np.abs(after[path] - before[path]).max() < 0.02 for path in before)  # one step of Adam
    assert np.mean([not np.array_equal(after[path], before[path]) for path in before]) > 0.9
    pipe, base_pipe = loading.load(workdir), loading.load(str(checkpoint_and_images / "sd"))
    for part in ("codec", "conditioner"):
        same = jax.tree.map(np.array_equal, getattr(pipe, part).params, getattr(base_pipe, part).params)
        assert jax.tree.all(same)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.init_from=nowhere"], "nowhere is not the workdir of a run"),
        (["--config.lora.targets=('atention',)"], "lora.targets='atention' is in no kernel's path"),
        (["--config.lora.rank=0"], "lora.rank=0 must be"),
        (["--config.model.text_channels=16"], "text.encoders have 12 channels in all, and model.text_channels=16"),
        (["--config.autoencoder.path=nowhere"], "nowhere"),
        (["--config.text.template=a {} fox", "--config.text.text_dropout=2.0"], "text.text_dropout=2.0 must be"),
    ],
)
def test_what_does_not_fit_is_one_line(words, message, checkpoint_and_images, capsys):
    config, rest = words_of(checkpoint_and_images, "lora", 1)
    workdir = checkpoint_and_images / "wrong"
    assert main(["train", "--config", config, "--workdir", str(workdir), *rest, *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble:")]
    assert len(said) == 1 and message in said[0]
    assert not workdir.exists()
