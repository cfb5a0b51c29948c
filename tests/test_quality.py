"""The suite quality of benchmarks: its page, and at tiny sizes what it compares."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from features.toy_network import linear_network
from PIL import Image

from benchmarks import __main__
from benchmarks.quality_parts import page, setting
from marble.evaluation import evaluator


def test_the_table_sets_the_sides_beside_each_other_at_equal_images(tmp_path):
    def row(side, images, fd):
        return dict(side=side, images=images, seconds=images / 4, fd=fd, low=fd - 1, high=fd + 2)

    rows = [row("marble", 100, 50.0), row("marble", 200, 40.0), row("diffusers", 100, 60.0)]
    lines = [json.dumps(entry) for entry in [{"num": 10, "title": "a title"}, *rows]]
    (tmp_path / "quality.jsonl").write_text("\n".join(lines) + "\n")
    about, found = page.read(tmp_path)
    assert about["num"] == 10 and found == rows
    head, _, first, second = page.table(found).splitlines()
    assert [cell.strip() for cell in head.split("|")[2:6:2]] == ["marble, FD-EffNetLite0", "diffusers, FD-EffNetLite0"]
    assert first == "| 100 | 50.0 (49.0 to 52.0) | 25 | 60.0 (59.0 to 62.0) | 25 |"
    assert second == "| 200 | 40.0 (39.0 to 42.0) | 50 |  |  |"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 24 images."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def tiny(monkeypatch):
    """A network that compiles in seconds."""
    model = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4, attention_resolutions=())
    monkeypatch.setattr(
        setting, "TINY", {"model": model, "training": dict(batch_size=8), "sampling": dict(batch_size=8)}
    )


@pytest.fixture
def program():
    pytest.importorskip("diffusers")
    pytest.importorskip("matplotlib")
    return __main__.main


@pytest.mark.parity
def test_both_sides_see_as_many_images_and_are_judged_alike(program, images, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluator, "open_features", lambda spec, **_: linear_network())
    words = [
        "--suite",
        "quality",
        "--out",
        str(tmp_path),
        "--tiny",
        "--folder",
        str(images),
        "--images",
        "32",
        "--points",
        "2",
    ]
    assert program([*words, "--num", "16", "--steps", "2"]) == 0
    about, rows = page.read(tmp_path)
    assert [(row["side"], row["step"], row["images"]) for row in rows] == [
        (side, step, 8 * step) for side in ("marble", "diffusers") for step in (2, 4)
    ]
    assert all(0 < row["low"] <= row["fd"] <= row["high"] for row in rows)
    for one, other in (rows[:2], rows[2:]):
        assert 0 < one["seconds"] < other["seconds"] and one["fd"] != other["fd"]
    assert about["num"] == 16 and about["reference_num"] == 24 and "8 images" not in about["title"]
    with Image.open(tmp_path / "quality.png") as picture:
        assert picture.size[0] > 600


@pytest.mark.parity
def test_what_diffusers_trained_is_what_marble_samples(program, images, tiny):
    """The moving average answers the same in both; the first step is of a learning rate of 0."""
    import torch
    from diffusers.training_utils import EMAModel

    from benchmarks.quality_parts import diffusers_side as side

    what = setting.setting(16, 1, tiny=True, data={"name": "image_folder", "source": str(images), "image_size": 32})
    model = what.experiment.objective.model
    net = side.torch_unet(model, 32)
    step = side.train_step(net, what)
    average = EMAModel(net.parameters(), use_ema_warmup=True, power=0.75, **side.class_and_config(net))
    pixels = side.pixels(what)
    assert pixels.shape == (24, 3, 32, 32) and pixels.dtype == torch.uint8
    before = [leaf.detach().clone() for leaf in net.parameters()]
    for batch in side.batches(pixels, what):
        assert batch.shape == (8, 3, 32, 32) and -1 <= batch.min() < batch.max() <= 1
        step(batch)
        average.step(net.parameters())
    assert any(not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    average.copy_to(net.parameters())
    x_t, t = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32), np.array([3, 700])
    with torch.no_grad():
        theirs = net.eval()(torch.tensor(np.moveaxis(x_t, -1, 1)), torch.tensor(t)).sample.numpy()
    ours = jax.jit(model.apply)({"params": side.as_ours(average)}, jnp.asarray(x_t), jnp.asarray(t))
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1), atol=2e-5)
