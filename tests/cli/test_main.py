"""The command line: what it answers, and how it fails."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from processes import ROOT, finished, marble

from marble import builders, run
from marble.cli.main import main
from marble.config import load_config


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


@pytest.mark.parametrize("command", ["train", "sample", "compress", "decompress", "data"])
def test_each_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"marble {command}" in capsys.readouterr().out


def test_print_config_shows_every_key(capsys):
    assert main(["train", "--config", "digits", "--config.training.num_steps=7", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert '"num_steps": 7' in printed and '"accumulate": 1' in printed


def line(capsys):
    """The last line on stderr; the one that says what was wrong."""
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 1, said
    return said[0]


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
            [*TRAIN, "--config.optimizer.warmup_steps=0", "--config.optimizer.decay_steps=1"],
            "the learning rate falls to 0 before step training.num_steps=2",
        ),
        ([*TRAIN, "--bogus"], "bogus"),
        ([*TRAIN, "word"], "'word'"),
        (["train", "--config", "digits:smoke", "--config.seed=1", "--workdir", "TRAINED"], "seed: 0 -> 1"),
        (["sample", "--out", "OUT"], "--workdir is missing"),
        (["sample", "--workdir", "WORKDIR", "--out", "OUT"], "is not the workdir of a run"),
        ([*SAMPLE, "--num", "0"], "0 images"),
        ([*SAMPLE, "--steps", "11"], "11 sampling steps: give between 1 and 10"),
        ([*SAMPLE, "--label", "3"], "trained without labels"),
        ([*SAMPLE, "--step", "1"], "no checkpoint of step 1"),
        ([*SAMPLE, "--sampler", "ddim"], "sampler='ddim' is unknown"),
        ([*SAMPLE, "--seed", "-1"], "seed=-1"),
        ([*SAMPLE, "--num", "many"], "many"),
        (["sample", "--workdir", "TRAINED", "--out", "/proc/nothing"], "--out /proc/nothing can't be"),
        (["data", "prepare", "mnistt"], "mnist"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(words, message, trained, tmp_path, capsys):
    places = {"WORKDIR": tmp_path / "new", "TRAINED": trained, "OUT": tmp_path / "out"}
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
    before = sorted(path.name for path in trained.rglob("*"))
    assert main(words) == 2
    if message is not None:
        assert message in line(capsys)
    assert not (tmp_path / "new").exists()
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


def test_raw_params_are_others(trained, tmp_path):
    for name, flags in (("ema", []), ("raw", ["--raw_params"])):
        assert main(["sample", "--workdir", str(trained), "--num", "2", "--out", str(tmp_path / name), *flags]) == 0
    ema, raw = (np.load(tmp_path / name / "samples.npz")["arr_0"] for name in ("ema", "raw"))
    assert ema.shape == raw.shape


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    kept = json.loads((workdir / "config.json").read_text())
    kept["config"]["model"]["channels"] = 16
    (workdir / "config.json").write_text(json.dumps(kept))
    assert main(["sample", "--workdir", str(workdir), "--out", str(tmp_path / "out")]) == 2
    assert "is of another model" in line(capsys)


@pytest.mark.end_to_end
def test_a_full_disk_ends_with_status_1_and_keeps_the_last_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    words = ["train", "--config", "configs/digits.py:smoke", "--workdir", workdir]
    finished(marble(*words))

    small_files = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"]  # of at most 20 KiB
    said = finished(marble(*words, "--config.training.num_steps=4", within=small_files), status=1)
    assert "could not be saved" in said and "Traceback" not in said
    finished(marble(*words, "--config.training.num_steps=4"))
    assert (ROOT / "configs").is_dir() and (workdir / "checkpoints" / "4").is_dir()
