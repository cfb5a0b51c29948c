"""Digits in one step and in four, by each of three ways: told from real ones little more often than the teacher's.

Many minutes on two cores: pytest -m slow tests/test_digits_few_steps.py -rP
"""

import numpy as np
import pytest
from processes import finished, marble
from test_digits import against_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

MOST = {1: 0.75, 4: 0.65}
"""How often a nearest neighbour may tell 800 generated digits from 800 training digits; 0.5 is chance."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of rectified flow."""
    workdir = tmp_path_factory.mktemp("few_steps") / "teacher"
    finished(marble("train", "--config", "digits:flow", "--workdir", workdir, optimised=True), timeout=3000)
    return workdir


def told_apart(workdir, *words):
    """How often 800 digits of a run are told from training digits, over five draws of these."""
    out = workdir / "out"
    sample = ("sample", "--workdir", workdir, "--num", 800, "--batch_size", 200, "--out", out)
    finished(marble(*sample, *words, optimised=True), timeout=1000)
    images = np.load(out / "samples.npz")["arr_0"]
    return float(np.mean([against_training(images, seed) for seed in range(5)]))


def test_the_teacher_needs_many_steps(teacher):
    many, one = told_apart(teacher), told_apart(teacher, "--steps", 1, "--sampler", "euler")
    print(f"the teacher, 50 steps of Heun: {many:.3f}; one of Euler: {one:.3f}")
    assert many < 0.58 and one > 0.9


@pytest.mark.parametrize("method", ["progressive", "consistency", "mean_flow"])
def test_few_steps_are_enough(method, teacher):
    workdir = teacher.parent / method
    words = ("--teacher", teacher, "--workdir", workdir, "--method", method, "--steps", 1)
    finished(marble("distill", *words, optimised=True), timeout=5000)
    of_four = workdir / "rounds" / "4" if method == "progressive" else workdir
    found = {1: told_apart(workdir), 4: told_apart(of_four, "--steps", 4)}
    print(f"{method}: one step {found[1]:.3f}, four {found[4]:.3f}")
    assert all(found[steps] <= most for steps, most in MOST.items())
