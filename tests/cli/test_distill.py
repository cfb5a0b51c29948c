"""marble distill: from a run to one of few steps, by each way, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from marble import builders, distill, load, run
from marble import workdir as workdirs
from marble.cli.main import main
from marble.config import load_config
from marble.errors import InputError

TINY = [f"--config.training.{key}={value}" for key, value in {"num_steps": 2, "checkpoint_every": 2}.items()]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Two steps of a tiny rectified flow."""
    config = load_config("digits:smoke")
    config.diffusion = {"beta_schedule": "rectified_flow", "prediction_type": "flow"}
    config.sampling.num_steps = 4
    workdir = tmp_path_factory.mktemp("teacher") / "run"
    run.run(builders.complete(config), str(workdir))
    return str(workdir)


def test_progressive_halves_and_halves_and_the_last_run_samples_in_its_steps(teacher, tmp_path):
    out = tmp_path / "few"
    words = ["--teacher", teacher, "--workdir", str(out), "--steps", "1", "--teacher_steps", "4", *TINY]
    assert main(["distill", *words]) == 0
    told = [workdirs.recall(str(folder))[0] for folder in (out / "rounds" / "2", out)]
    assert [config["distillation"]["num_steps"] for config in told] == [2, 1]
    assert [config["init_from"] for config in told] == [teacher, str(out / "rounds" / "2")]
    pipe = load(str(out))
    assert pipe.num_steps() == 1 and pipe.sample(3).shape == (3, 8, 8, 1)
    # Started again it goes on: here there is nothing left to do.
    assert main(["distill", *words]) == 0


@pytest.fixture(scope="module")
def consistent(teacher, tmp_path_factory):
    """A consistency model of two steps of training."""
    out = tmp_path_factory.mktemp("consistent") / "run"
    words = ["--teacher", teacher, "--workdir", str(out), "--steps", "2", "--method", "consistency"]
    assert main(["distill", *words, *TINY]) == 0
    return out


def samples_in(pipe, steps):
    assert pipe.num_steps() == steps
    images = pipe.sample(3)
    assert images.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(pipe.sample(1, first=2), images[2:])


def test_a_mean_flow_is_told_where_its_steps_end(teacher, tmp_path):
    out = tmp_path / "few"
    words = ["--teacher", teacher, "--workdir", str(out), "--steps", "2", "--method", "mean_flow", "--ask_teacher"]
    assert main(["distill", *words, *TINY]) == 0
    pipe = load(str(out))
    assert pipe.tells_s and pipe.schedule.level(1.0).t > 900  # the teacher's times, for it is asked
    samples_in(pipe, 2)


def test_a_student_is_used_without_its_teacher(consistent, teacher, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(consistent, moved)
    kept = moved / "config.json"
    kept.write_text(kept.read_text().replace(teacher, str(tmp_path / "gone")))
    pipe = load(str(moved))
    samples_in(pipe, 2)
    assert (pipe.sample(3, steps=1) != pipe.sample(3)).any()  # the second step draws noise


def test_a_mean_flow_without_a_teacher_is_told_slow_times(teacher, tmp_path):
    of_both = [distill.runs(teacher, str(tmp_path), steps=1, method="mean_flow", teaches=asks) for asks in (None, True)]
    assert [run.config.diffusion.time_scale for (run,) in of_both] == [10, 1000]


def test_the_config_is_the_teachers_but_for_what_is_learnt(teacher, capsys):
    assert main(["distill", "--teacher", teacher, "--steps", "4", "--print_config", "--config.seed=3"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["seed"] == 3 and config["objective"] == "progressive" and config["model"]["channels"] == 8
    assert config["diffusion"]["weighting"] == "truncated_snr"
    assert (config["sampling"]["sampler"], config["sampling"]["num_steps"]) == ("ddim", 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 5}, "halved again and again is never steps=5"),
        ({"steps": 64}, "teacher_steps=64 halved"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 1, "method": "consistent"}, "method='consistent' is none of progressive"),
        ({"steps": 1, "teaches": False}, "nothing without a teacher"),
        ({"steps": 1, "method": "mean_flow", "guidance_scale": 2.0}, None),
    ],
)
def test_what_can_not_be_is_refused(words, message, teacher, tmp_path):
    if message is None:  # told when the run is built: this model has no null context
        made = distill.runs(teacher, str(tmp_path), **words)[0]
        with pytest.raises(InputError, match="guidance_scale=2.0 needs"):
            run.run(made.config, str(tmp_path / "few"))
        return
    with pytest.raises(InputError, match=message):
        distill.runs(teacher, str(tmp_path), **words)


def test_a_student_of_another_objective_is_no_teacher(consistent, tmp_path, capsys):
    assert main(["distill", "--teacher", str(consistent), "--workdir", str(tmp_path / "next"), "--steps", "1"]) == 2
    assert "objective='consistency', which teaches nobody" in capsys.readouterr().err
