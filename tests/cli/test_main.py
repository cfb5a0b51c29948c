"""The command line: what it answers, and how it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from threading import Thread

import full_disk
import jax
import numpy as np
import originals
import pytest
from PIL import Image
from processes import ROOT, TINY, final_state, finished, marble

from marble import builders, loading, run
from marble.cli.main import main
from marble.config import load_config
from marble.data.images import decode
from marble.errors import EXIT_RESTART
from marble.pipelines import DiffusionPipeline


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir of digits:smoke."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    run.run(builders.complete(load_config("digits:smoke")), str(workdir))
    return workdir


def test_help_answers_in_under_a_second():
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "marble.cli.main", "--help"], capture_output=True, text=True)
        times.append(time.perf_counter() - began)
        assert done.returncode == 0 and "usage: marble COMMAND" in done.stdout
    assert min(times) < 1


@pytest.mark.parametrize(
    "command", ["train", "distill", "sample", "evaluate", "compress", "decompress", "export", "plan", "data"]
)
def test_each_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"marble {command}" in capsys.readouterr().out


def test_print_config_shows_every_key(capsys):
    assert main(["train", "--config", "digits", "--config.training.num_steps=7", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert '"num_steps": 7' in printed and '"accumulate": 1' in printed


def test_a_name_on_the_command_line_brings_its_keys(capsys):
    words = ["--config.diffusion.weighting=min_snr", "--config.diffusion.gamma=2.0"]
    assert main(["train", "--config", "digits", *words, "--print_config"]) == 0
    assert '"gamma": 2.0' in capsys.readouterr().out


def line(capsys):
    """The last line on stderr; the one that says what was wrong."""
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 1, said
    return said[0]


@pytest.fixture
def damaged(tmp_path):
    """Originals that can't be used, by the name that stands for their folder in a row of the table."""

    names = ("CUT_IDX", "CUT_CIFAR", "UNREADABLE", "SEVERAL_SIZES", "HELD")
    folders = {name: tmp_path / name.lower() for name in names}
    pixels, label = np.zeros((6, 32, 32, 3), np.uint8), np.zeros(6, np.uint8)
    originals.write_mnist({split: (pixels[..., 0], label) for split in ("train", "test")}, folders["CUT_IDX"])
    originals.write_cifar10({"train": (pixels[:5], label[:5]), "test": (pixels[5:], label[5:])}, folders["CUT_CIFAR"])
    for name, sizes in (("UNREADABLE", (9, 9)), ("SEVERAL_SIZES", (9, 8))):
        folders[name].mkdir()
        for i, size in enumerate(sizes):
            Image.new("RGB", (size, size)).save(folders[name] / f"{i}.png")
    (folders["HELD"] / "test").mkdir(parents=True)
    halved = {"CUT_IDX": "train-images-idx3-ubyte", "CUT_CIFAR": "data_batch_2.bin", "UNREADABLE": "1.png"}
    for name, file in halved.items():
        whole = (folders[name] / file).read_bytes()
        (folders[name] / file).write_bytes(whole[: len(whole) // 2])
    return folders


PREPARE = ["data", "prepare", "--data_dir", "DATA"]
TRAIN = ["train", "--config", "digits:smoke", "--workdir", "WORKDIR"]
SAMPLE = ["sample", "--workdir", "TRAINED", "--out", "OUT"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], None),
        (["tarin"], "unknown command 'tarin'; there are: train"),
        (["train", "--workdir", "WORKDIR"], "--config is missing"),
        (["train", "--config", "digits"], "--workdir is missing"),
        (["train", "--config", "nowhere.py", "--workdir", "WORKDIR"], "no config file 'nowhere.py'"),
        ([*TRAIN, "--config.training.num_stepz=3"], "training.num_stepz=3; did you mean 'training.num_steps'"),
        ([*TRAIN, "--config.training.num_steps=1e5"], "training.num_steps=1e5"),
        ([*TRAIN, "--config.training.num_steps=0"], "training.num_steps=0 must be at least 1"),
        ([*TRAIN, "--config.data.name=digitz"], "digits"),
        ([*TRAIN, "--config.data.name=mnist", "--config.data.data_dir=WORKDIR"], "marble data prepare mnist"),
        ([*TRAIN, "--config.data.name=mnist", "--config.data.source=/nowhere"], "/nowhere"),
        (
            [*TRAIN, "--config.training.batch_size=12"],
            "training.batch_size=12 does not divide over 8 devices: use 8 or 16",
        ),
        ([*TRAIN, "--config.model.channels=30"], "30"),
        ([*TRAIN, "--config.model.num_classes=7"], "model.num_classes=7, but digits has 10 classes"),
        ([*TRAIN, "--config.training.accumulate=3"], "training.accumulate=3 does not divide"),
        (
            [*TRAIN, "--config.optimizer.warmup_steps=5", "--config.optimizer.decay_steps=5"],
            "decay_steps=5 must be above",
        ),
        ([*TRAIN, "--config.diffusion.gamma=2.0"], "unknown config key diffusion.gamma"),
        ([*TRAIN, "--config.diffusion.weighting=elbow"], "weighting='elbow' is unknown; did you mean 'elbo'"),
        (["train", "--config", "digits:smoke", "--workdir="], "--workdir is empty"),
        (["train", "--config", "digits:smoke", "--workdir", "FILE"], "--workdir FILE can't be written to"),
        (["train", "--config", "digits:smoke", "--workdir", "FILE/in"], "--workdir FILE/in can't be written to"),
        (
            ["train", "--config", "digits:smoke", "--config.training.num_steps=1", "--workdir", "TRAINED"],
            "is at step 2, past",
        ),
        (["sample", "--workdir", "FILE", "--out", "OUT"], "is not the workdir of a run"),
        (["sample", "--workdir", "TRAINED", "--out="], "--out is empty"),
        ([*TRAIN, "--bogus"], "bogus"),
        ([*TRAIN, "word"], "'word'"),
        (["train", "--config", "digits:smoke", "--config.seed=1", "--workdir", "TRAINED"], "seed: 0 -> 1"),
        (["sample", "--out", "OUT"], "--workdir is missing"),
        (["sample", "--workdir", "WORKDIR", "--out", "OUT"], "is not the workdir of a run"),
        ([*SAMPLE, "--num", "0"], "0 images"),
        ([*SAMPLE, "--steps", "11"], "11 sampling steps: give between 1 and 10"),
        ([*SAMPLE, "--label", "3"], "trained without labels"),
        ([*SAMPLE, "--step", "1"], "no checkpoint of step 1"),
        ([*SAMPLE, "--sampler", "ddin"], "sampler='ddin' is unknown"),
        ([*SAMPLE, "--seed", "-1"], "seed=-1"),
        ([*SAMPLE, "--mask", "FILE"], "--mask is for --init_image"),
        ([*SAMPLE, "--strength", "0.5"], "--strength is for --init_image"),
        ([*SAMPLE, "--interpolate", "FILE"], "must be two images: A B"),
        ([*SAMPLE, "--init_image", "/nowhere.png"], "there is no file or folder /nowhere.png"),
        ([*SAMPLE, "--init_image", "FILE"], "is not an npz with the images as arr_0"),
        ([*SAMPLE, "--init_image", "PICTURE", "--strength", "1.5"], "strength=1.5 must be between 0"),
        ([*SAMPLE, "--init_image", "PICTURE", "--mask", "SMALL"], "is 4x4, the model's images are 8x8: give --resize"),
        ([*SAMPLE, "--guidance_scale", "2"], "guidance_scale=2 needs a model that was trained with and without"),
        ([*SAMPLE, "--guidance_interval", "0.1,5"], "guidance_interval=0.1,5 needs a model that was trained with"),
        ([*SAMPLE, "--guidance_scale", "1e39"], "guidance_scale=1e+39 must be a number below 1e+06"),
        ([*SAMPLE, "--init_image", "PICTURE", "--eta", "0"], "--eta is not for images made from images"),
        ([*SAMPLE, "--init_image", "PICTURE", "--resamples", "3"], "--resamples is for --mask"),
        ([*SAMPLE, "--init_image", "PICTURE", "--mask", "PICTURE"], "is white nowhere: there is nothing to draw"),
        ([*SAMPLE, "--interpolate", "PICTURE", "PICTURE", "--first", "3"], "--first is not for --interpolate"),
        ([*SAMPLE, "--interpolate", "PICTURE,"], "an image's name is empty"),
        ([*SAMPLE, "--eta", "0.5"], "the sampler Ancestral has none: use ddim"),
        ([*SAMPLE, "--sampler", "ddim", "--eta", "2"], "eta=2.0 must be between 0 and 1"),
        ([*SAMPLE, "--num", "many"], "many"),
        (["sample", "--workdir", "TRAINED", "--out", "/proc/nothing"], "--out /proc/nothing can't be"),
        (["data"], "marble data: the following arguments are required: command"),
        (["data", "foo"], "'foo'"),
        (["data", "prepare"], "marble data prepare: the following arguments are required: NAME"),
        (["data", "prepare", "mnist", "--foo"], "--foo"),
        ([*PREPARE, "mnistt"], "mnist"),
        ([*PREPARE, "mnist", "--source", ""], "the source is empty: give the folder of the originals of mnist"),
        ([*PREPARE, "mnist", "--source", "CUT_IDX"], "train-images-idx3-ubyte has 3080 bytes where"),
        ([*PREPARE, "cifar10", "--source", "CUT_CIFAR"], "data_batch_2.bin has 1536 bytes, not a multiple of 3073"),
        ([*PREPARE, "image_folder", "--source", "UNREADABLE"], "1.png is not a readable image"),
        ([*PREPARE, "image_folder", "--source", "HELD"], "has test/ but no train/"),
        (
            [
                *TRAIN,
                "--config.data.name=image_folder",
                "--config.data.source=SEVERAL_SIZES",
                "--config.data.data_dir=DATA",
            ],
            "0.png is 9x9 (width x height) and 1.png is 8x8 (width x height); give an image_size",
        ),
    ],
)
def test_bad_input_gets_one_line_and_status_2(words, message, trained, damaged, tmp_path, capsys):
    places = {"WORKDIR": tmp_path / "new", "TRAINED": trained, "OUT": tmp_path / "out", "DATA": tmp_path / "data"}
    places |= damaged | {"FILE": tmp_path / "file", "PICTURE": tmp_path / "a.png", "SMALL": tmp_path / "b.png"}
    for name, size in (("PICTURE", 8), ("SMALL", 4)):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(places[name])
    (tmp_path / "file").write_text("")
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
        message = message and message.replace(name, str(path))
    before = sorted(path.name for path in trained.rglob("*"))
    assert main(words) == 2
    if message is not None:
        assert message in line(capsys)
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "data").glob(".preparing-*"))
    assert sorted(path.name for path in trained.rglob("*")) == before


def test_sample_writes_what_it_says(trained, tmp_path):
    out = tmp_path / "out"
    assert main(["sample", "--workdir", str(trained), "--num", "10", "--out", str(out), "--gif", "--steps", "5"]) == 0
    images = np.load(out / "samples.npz")["arr_0"]
    assert images.shape == (10, 8, 8, 1) and images.dtype == np.uint8
    assert Image.open(out / "samples.png").size[0] >= 256
    assert Image.open(out / "trajectory.gif").n_frames <= 5  # equal frames are merged
    assert (
        main(["sample", "--workdir", str(trained), "--num", "4", "--first", "3", "--steps", "5", "--out", str(out)])
        == 0
    )
    np.testing.assert_array_equal(np.load(out / "samples.npz")["arr_0"], images[3:7])


def test_images_are_made_from_images(trained, tmp_path):
    picture, mask, out = (str(tmp_path / name) for name in ("a.png", "m.png", "out"))
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) // 4 * 16
    holes = np.zeros((8, 8), np.uint8)
    holes[:, 4:] = 255
    Image.fromarray(pixels).save(picture)
    Image.fromarray(holes).save(mask)
    words = ["sample", "--workdir", str(trained), "--out", out, "--num", "3"]

    def made(*more):
        assert main([*words, *more]) == 0
        return np.load(tmp_path / "out" / "samples.npz")["arr_0"][..., 0]

    # Known pixels stay as they are, though they are none of the data's 17 levels; what is drawn is.
    inpainted = made("--init_image", picture, "--mask", mask)
    np.testing.assert_array_equal(inpainted[:, :, :4], np.broadcast_to(pixels[:, :4], (3, 8, 4)))
    assert set(np.unique(inpainted[:, :, 4:])) <= set(np.round(np.arange(17) * 255 / 16).astype(np.uint8))
    assert not np.array_equal(inpainted[0], inpainted[1])
    np.testing.assert_array_equal(made("--init_image", picture, "--strength", "0"), np.stack([pixels] * 3))
    levels = np.round(np.round(pixels / 255 * 16) * 255 / 16)
    for ends in ([f"{picture},{picture}"], [picture, picture]):
        way = made("--interpolate", *ends, "--strength", "0")
        np.testing.assert_array_equal(way[[0, 2]], np.stack([pixels] * 2))
        np.testing.assert_array_equal(way[1], levels)
    comma = str(tmp_path / "a,1.png")
    Image.fromarray(pixels).save(comma)
    np.testing.assert_array_equal(made("--interpolate", comma, picture, "--strength", "0")[0], pixels)


def test_images_of_any_kind_are_edited(trained, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (11, 9, 3), np.uint8))
    picture.save(folder / "a.jpg")
    picture.convert("RGBA").save(folder / "b.png")
    picture.quantize(8).save(folder / "c.gif")
    picture.convert("1").save(folder / "d.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "e.jpg", exif=turned)
    (folder / ".DS_Store").write_text("hidden")
    (folder / "._a.jpg").write_text("hidden")
    mask = Image.new("RGBA", (9, 11), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (3, 4, 7, 9))  # what is cut out of a mask is to be drawn
    mask.save(tmp_path / "mask.png")
    words = ["sample", "--workdir", str(trained), "--out", str(out), "--num", "5", "--init_image", str(folder)]
    assert main([*words, "--resize", "--strength", "0"]) == 0
    images = np.load(out / "samples.npz")["arr_0"]
    names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    expected = [decode((folder / name).read_bytes(), name, channels=1, image_size=8) for name in names]
    np.testing.assert_allclose(images.astype(int), np.stack(expected), atol=1)
    assert main([*words, "--resize", "--mask", str(tmp_path / "mask.png"), "--resamples", "1"]) == 0
    changed = (np.load(out / "samples.npz")["arr_0"] != images).any(axis=(0, 3))
    assert changed.any() and not changed[0].any() and not changed[:, 0].any()


def test_the_file_that_is_wrong_is_named(trained, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    Image.new("L", (9, 8)).save(tmp_path / "images" / "b.png")
    words = ["sample", "--workdir", str(trained), "--out", str(tmp_path / "out"), "--num", "1"]
    assert main([*words, "--init_image", str(tmp_path / "images")]) == 2
    assert "b.png is 8x9, the model's images are 8x8: give --resize, or cut it" in capsys.readouterr().err
    (tmp_path / "images" / "b.png").write_text("no image")
    assert main([*words, "--init_image", str(tmp_path / "images")]) == 2
    assert "b.png is not a readable image (no known format)" in capsys.readouterr().err
    assert main([*words, "--init_image", str(tmp_path / "images" / "a.png"), "--strength", "0.01"]) == 2
    assert "strength=0.01 of 10 steps makes none: give at least 0.05, or 0" in capsys.readouterr().err


def test_a_folder_in_the_place_of_the_images_is_found_before_sampling(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    for name, flags in (("samples.png", []), ("samples.npz", []), ("trajectory.gif", ["--gif"])):
        (tmp_path / name / name).mkdir(parents=True)
        assert main(["sample", "--workdir", str(trained), "--out", str(tmp_path / name), *flags]) == 2
        assert f"{name}/{name} is a folder; give another --out" in line(capsys)
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]


def test_images_that_do_not_fit_on_the_disk_are_a_fault_that_names_them(trained, tmp_path, capsys, monkeypatch):
    words = ["sample", "--workdir", str(trained), "--num", "3", "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    full_disk.fill(monkeypatch, ".new")
    assert main(words) == 1
    assert f"out/samples.png ({full_disk.REASON}): make room on its disk, or write to another" in line(capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole


@pytest.mark.parametrize(("flags", "field"), [([], "ema_params"), (["--raw_params"], "params")])
def test_raw_params_are_the_last_ones(flags, field, trained, tmp_path, monkeypatch):
    used = []

    def drawn(pipe, *_, **__):
        used.append(pipe.params)
        return np.zeros((1, 8, 8, 1), np.uint8)

    monkeypatch.setattr(DiffusionPipeline, "sample", drawn)
    assert main(["sample", "--workdir", str(trained), "--out", str(tmp_path / "out"), *flags]) == 0
    _, state = final_state(trained)
    jax.tree.map(np.testing.assert_array_equal, used[0], getattr(state, field))
    difference = jax.tree.map(lambda one, other: np.abs(one - other).max(), state.params, state.ema_params)
    assert max(jax.tree.leaves(difference)) > 0


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    kept = json.loads((workdir / "config.json").read_text())
    kept["config"]["model"]["channels"] = 16
    (workdir / "config.json").write_text(json.dumps(kept))
    assert main(["sample", "--workdir", str(workdir), "--out", str(tmp_path / "out")]) == 2
    assert "is of another model" in line(capsys)


@pytest.mark.slow
def test_from_a_thread_a_command_is_the_same(tmp_path):
    statuses = []
    words = ["train", *TINY, "--workdir", str(tmp_path / "run")]
    thread = Thread(target=lambda: statuses.append(main(words)))
    thread.start()
    thread.join()
    assert statuses == [0] and final_state(tmp_path / "run")[0] == 2


def test_ctrl_c_in_a_notebook_saves_and_gives_the_status_back(tmp_path, capsys):
    """The process, which is this test's, goes on."""
    workdir = tmp_path / "run"

    def stop():
        while not (workdir / "metrics.jsonl").exists() or not (workdir / "metrics.jsonl").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=stop, daemon=True).start()
    words = ["--config.training.num_steps=1000000", "--config.training.log_every=1", "--workdir", str(workdir)]
    assert main(["train", *TINY, *words]) == EXIT_RESTART
    step, _ = final_state(workdir)
    assert f"saved step {step}; run the same command to go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.end_to_end
@pytest.mark.slow
def test_a_full_disk_ends_with_status_1_and_keeps_the_last_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    words = ["train", *TINY, "--workdir", workdir]
    finished(marble(*words))

    small_files = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"]  # of at most 20 KiB
    said = finished(marble(*words, "--config.training.num_steps=4", within=small_files), status=1)
    assert "could not be saved" in said and "Traceback" not in said
    finished(marble(*words, "--config.training.num_steps=4"))
    assert (ROOT / "configs").is_dir() and (workdir / "checkpoints" / "4").is_dir()
