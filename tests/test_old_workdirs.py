"""Workdirs of version 0.1.0 as of November 2026, before configs had an objective: they open, draw the same, and go on.

tests/reference/workdirs_0.1.0.tar.gz has three tiny runs of 20 steps, each with the images that it drew then.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from processes import metrics
from tables import rest_slow

import marble
from marble.cli.main import main

ARCHIVE = Path(__file__).parent / "reference" / "workdirs_0.1.0.tar.gz"
TINY = [
    *("--config.model.channels=4", "--config.model.channel_mult=(1,)", "--config.model.num_groups=2"),
    *("--config.training.batch_size=16", "--config.training.eval_every=10", "--config.training.log_every=5"),
    *("--config.training.checkpoint_every=20", "--config.training.keep_checkpoints=1"),
    *("--config.optimizer.warmup_steps=2", "--config.optimizer.decay_steps=20", "--config.training.num_steps=21"),
]
STEPS = "--config.diffusion.num_train_timesteps=20"
RUNS = {
    # name: what sample was asked for, and the words that trained it
    "labels": (
        {"labels": [i % 10 for i in range(12)]},
        ["--config", "digits:conditional", STEPS, "--config.training.label_dropout=0.2"],
    ),
    "vae": ({}, ["--config", "digits_vae", "--config.model.latent_size=4"]),
    "importance": (
        {},
        [
            *("--config", "digits", STEPS, "--config.training.self_conditioning=True"),
            *("--config.training.timestep_sampling=importance", "--config.diffusion.variance_type=learned_range"),
        ],
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_draws_what_it_drew(name, runs):
    images = marble.load(str(runs / name)).sample(12, seed=3, **RUNS[name][0])
    then = np.load(runs / name / "samples_then.npz")["arr_0"]
    # Another machine rounds otherwise: one of the digits' 17 levels at most, and hardly ever.
    difference = np.abs(images.astype(int) - then)
    assert difference.max() <= 16 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", rest_slow(RUNS, "labels"))
def test_an_old_run_goes_on(name, runs, capsys):
    before = metrics(runs / name)
    assert main(["train", *RUNS[name][1], *TINY, "--workdir", str(runs / name)]) == 0
    said = capsys.readouterr().err
    assert "going on from the checkpoint of step 20" in said
    assert "training.num_steps: 20 -> 21" in said and "training.ema_warmup: False -> True" in said
    assert metrics(runs / name)[: len(before)] == before
    kept = json.loads((runs / name / "config.json").read_text())["config"]
    assert kept["objective"] == ("vae" if name == "vae" else "diffusion")
    assert ("label_dropout" in kept["training"]) == (name != "vae")


def test_another_config_is_still_refused(runs, capsys):
    words = [*RUNS["labels"][1], *TINY, "--config.training.label_dropout=0.3", "--workdir", str(runs / "labels")]
    assert main(["train", *words]) == 2
    assert "training.label_dropout: 0.2 -> 0.3" in capsys.readouterr().err
