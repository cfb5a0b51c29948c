"""A new objective or a new conditioner is one file, and one entry."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from toy_conditioner import Bright
from toy_objective import Toy

import marble
from marble import builders, run
from marble.config import load_config
from marble.errors import InputError
from marble.objectives import diffusion


def test_a_toy_objective_trains_goes_on_and_draws(tmp_path, monkeypatch):
    monkeypatch.setitem(builders.OBJECTIVES, "toy", Toy)
    smoke = load_config("digits:smoke").to_dict()
    smoke["training"] |= {"num_steps": 150, "log_every": 50, "checkpoint_every": 100, "ema_decay": 0.9}
    smoke["optimizer"] |= {"learning_rate": 0.05, "warmup_steps": 0}
    del smoke["diffusion"]
    config = ConfigDict({**smoke, "model": {"name": "mean_image"}, "sampling": {}})
    whole = builders.complete(config)
    assert whole.objective == "toy" and whole.model.start == 0.0 and "conditioner" not in whole
    state = run.run(whole, str(tmp_path / "run"))
    images = whole.data.name and builders.data_config(whole).open().read("train")
    mean = np.mean([2 * images[i]["image"] / 16 - 1 for i in range(len(images))], axis=0)
    np.testing.assert_allclose(state.ema_params["image"], mean, atol=0.1)
    drawn = marble.load(str(tmp_path / "run")).sample(3)
    assert drawn.shape == (3, 8, 8, 1) and (drawn == drawn[0]).all() and drawn.std() > 20
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line["rmse"] for line in lines if "rmse" in line]
    assert logged[-1] < logged[0]
    assert (tmp_path / "run" / "samples").exists()
    with pytest.raises(InputError, match="the config section diffusion is not read with model.name='mean_image'"):
        builders.complete({**config.to_dict(), "diffusion": {}})


def test_a_toy_conditioner_is_told_in_training_and_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(diffusion.CONDITIONERS, "bright", Bright)
    config = load_config("digits:smoke").to_dict()
    config["model"]["num_classes"], config["conditioner"] = 2, "bright"
    config["training"] |= {"bright_above": -0.4, "eval_every": 0}
    config["model"] |= {"channels": 4, "channel_mult": (1,)}
    whole = builders.complete(config)
    assert "label_dropout" not in whole.training and whole.training.bright_above == -0.4
    run.run(whole, str(tmp_path / "run"))
    pipe = marble.load(str(tmp_path / "run"))
    assert pipe.sample(2, bright=True).shape == (2, 8, 8, 1)
    with pytest.raises(InputError, match=r"labels=1 given, but .* \(it reads bright\)"):
        pipe.sample(2, labels=1)
    monkeypatch.delitem(diffusion.CONDITIONERS, "bright")
    with pytest.raises(InputError, match="config key conditioner='bright' is unknown; there are: labels"):
        marble.load(str(tmp_path / "run"))
