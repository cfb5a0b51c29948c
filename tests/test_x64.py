"""With JAX_ENABLE_X64=1 in the environment marble does the same, to the last bit."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import ROOT, TINY, assert_same_run

from marble.cli.main import main
from marble.loading import load
from marble.pipelines import editing

pytestmark = pytest.mark.slow  # in short: parallel/test_precision.py

OPTIONS = [*TINY[2:], "--config.model.dropout=0.1", "--config.data.flip=True", "--config.training.eval_every=2"]
SLICE = (
    "tests/data/test_preprocess.py",
    "tests/models/test_layers.py",
    "tests/pipelines/test_diffusion.py::test_images_are_uint8_at_the_data_s_levels",
    "tests/sampling/test_editing.py::test_no_number_is_drawn_twice",
    "tests/training/test_step.py::test_micro_batches_make_the_same_step[2]",
)


@pytest.fixture
def switch():
    """Sets JAX_ENABLE_X64 for all threads of this process."""
    before = jax.config.jax_enable_x64
    yield lambda is_on: jax.config.update("jax_enable_x64", is_on)
    jax.config.update("jax_enable_x64", before)


def train(workdir, num_steps):
    words = [*TINY[:2], *OPTIONS, f"--config.training.num_steps={num_steps}", "--config.training.checkpoint_every=2"]
    assert main(["train", *words, "--workdir", str(workdir)]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain") / "run"
    train(workdir, 4)
    return workdir


def test_a_run_ends_the_same_whichever_half_has_it(trained, tmp_path, switch):
    for first in (False, True):
        workdir = tmp_path / f"{first} first"
        for is_on, num_steps in ((first, 2), (not first, 4)):
            switch(is_on)
            train(workdir, num_steps)
        switch(False)
        assert_same_run(workdir, trained)


@pytest.mark.end_to_end
def test_the_same_seed_draws_the_same_images(trained, tmp_path):
    script = """
import sys, jax, numpy as np, marble
pipe = marble.load(sys.argv[1])
assert jax.config.jax_enable_x64
image = pipe.sample(1, seed=9)
edited = marble.pipelines.editing.edit(pipe, image, 0.5, steps=4, seed=3, as_float=True)
floats = pipe.sample(8, seed=3, steps=10, as_float=True)
np.savez(sys.argv[2], images=pipe.sample(8, seed=3), floats=floats, edited=edited)
"""
    out = tmp_path / "found.npz"
    words = [sys.executable, "-c", script, str(trained), str(out)]
    subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, "JAX_ENABLE_X64": "1"}, timeout=300)
    found, pipe = np.load(out), load(str(trained))
    np.testing.assert_array_equal(found["images"], pipe.sample(8, seed=3))
    np.testing.assert_array_equal(found["floats"], pipe.sample(8, seed=3, steps=10, as_float=True))
    edited = editing.edit(pipe, pipe.sample(1, seed=9), 0.5, steps=4, seed=3, as_float=True)
    np.testing.assert_array_equal(found["edited"], edited)


@pytest.mark.end_to_end
def test_a_slice_of_the_tests_passes():
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *SLICE]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "JAX_ENABLE_X64": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]
