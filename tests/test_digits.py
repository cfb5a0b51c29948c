"""The quickstart's model: its digits are real ones to a nearest-neighbour test. Minutes on two cores."""

import json
import lzma
import os
import subprocess
import sys

import numpy as np
import pytest
from processes import ROOT, finished, marble
from sklearn.svm import SVC

from marble import load
from marble.compression import format
from marble.data.preprocess import to_float, to_uint8
from marble.data.sources import open_source
from marble.metrics import nearest_neighbour_accuracy
from marble.pipelines.lossless import LosslessCompressor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where ``run`` is the quickstart's."""
    folder = tmp_path_factory.mktemp("digits")
    train = marble("train", "--config", "configs/digits.py", "--workdir", folder / "run", optimised=True)
    finished(train, timeout=3000)
    return folder


def drawn(folder, *words):
    """800 digits."""
    sample = ("sample", "--workdir", folder / "run", "--num", 800, "--batch_size", 200, "--out", folder / "out")
    finished(marble(*sample, *words, optimised=True), timeout=3000)
    return np.load(folder / "out" / "samples.npz")["arr_0"]


@pytest.fixture(scope="module")
def generated(folder):
    """By 1000 ancestral steps, as the quickstart draws them."""
    return drawn(folder)


def real(split):
    """Real digits as uint8 0..255, and their labels."""
    examples = open_source("digits").read(split)
    images, labels = (np.stack([examples[i][key] for i in range(len(examples))]) for key in ("image", "label"))
    return np.asarray(to_uint8(to_float(images, 17), 17)), labels


def against_training(generated, seed=0):
    """How often 800 digits are told from 800 training digits."""
    images, _ = real("train")
    chosen = images[np.random.default_rng(seed).permutation(len(images))[:800]]
    return nearest_neighbour_accuracy(generated, chosen)


def test_generated_digits_are_told_from_training_digits_by_chance_only(generated):
    accuracy = against_training(generated)
    print("800 generated against 800 training digits:", accuracy)
    assert 0.42 <= accuracy <= 0.56


def test_they_are_no_copies_of_training_digits(generated):
    held_out, _ = real("test")
    accuracy = nearest_neighbour_accuracy(generated[:360], held_out)
    print("360 generated against the 360 held-out digits:", accuracy)
    assert accuracy <= 0.6


def test_20_steps_of_dpm_solver_are_no_worse_than_1000_ancestral_ones(folder, generated):
    quick = drawn(folder, "--sampler", "dpm_solver_2m", "--steps", 20)
    # Over five draws of training digits, for the accuracy of one has a standard error of 0.0125.
    few, many = (np.mean([against_training(images, seed) for seed in range(5)]) for images in (quick, generated))
    held_out, _ = real("test")
    of_held_out = nearest_neighbour_accuracy(quick[:360], held_out)
    print(
        f"20 steps of DPM-Solver++: {few:.3f}, 1000 ancestral: {many:.3f}; 360 of the 20 steps, held out: {of_held_out}"
    )
    assert 0.42 <= few <= many + 0.0125
    assert of_held_out <= 0.6


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_bound_s_terms_add_up_to_it_and_the_flow_is_below(folder, split):
    # The model knows the digits it was trained on a little better: by less than 5 %.
    evaluate = ("evaluate", "--workdir", folder / "run", "--split", split, "--num", 360)
    finished(marble(*evaluate, optimised=True), timeout=3000)
    found = json.loads((folder / "run" / "metrics.json").read_text())["bpd"]
    found = next(value for name, value in found.items() if name.startswith(split))
    print(split, {name: found[name] for name in ("L_T", "L_0", "bound", "probability_flow")})
    assert found["num"] == 360 and found["levels"] == 17
    later = sum(found["by_step"]["mean"][1:])
    assert found["L_T"]["mean"] + later + found["L_0"]["mean"] == pytest.approx(found["bound"]["mean"], rel=1e-6)
    for name in ("bound", "probability_flow"):
        assert 0 < found[name]["standard_error"] < 0.03
    # Of 17 equally likely levels it would be 4.09 bits, and 2.4 by each position's own frequencies in these images.
    assert 2 < found["probability_flow"]["mean"] < found["bound"]["mean"] < 3.2


def pixels_of(split):
    examples = open_source("digits").read(split)
    return np.stack([examples[i]["image"] for i in range(len(examples))])


def test_the_held_out_digits_are_compressed_without_a_loss(folder):
    compressor, pixels = LosslessCompressor(load(str(folder / "run"))), pixels_of("test")
    allocation = compressor.allocate(pixels_of("train")[::2][:512])
    compressed = compressor.compress(pixels, allocation)
    images, exact = compressor.decompress(compressed.data)
    assert exact
    np.testing.assert_array_equal(images, pixels)
    size, lzma_size = len(compressed.data), len(lzma.compress(pixels.astype(np.uint8)))
    elbo = compressor.bound_bits(pixels, allocation) / 8
    print(f"{size} bytes: {8 * size / compressed.ideal_bits:.4f} of its ideal length, {size / elbo:.3f} of the ELBO")
    assert 8 * size <= 1.02 * compressed.ideal_bits
    assert size < lzma_size
    # What ends with a section says more than what ends with the one before; between the ends nothing changes.
    sections = format.read(compressed.data)[1]
    ends = np.cumsum([format.header_size(compressed.data), *(len(section) + 2 for section in sections)])
    assert ends[-1] == size
    prefixes = [compressed.data[:end] for end in (ends[0], *((ends[1:-1] + ends[2:]) // 2))]
    shown = [compressor.decompress(prefix, prefix=True)[0] for prefix in prefixes]
    errors = [np.sqrt(np.mean((to_float(pixels, 17) - x_0) ** 2)) for x_0 in shown]
    print("distortion from prefix to prefix:", np.round(errors, 3))
    assert (np.diff(errors) < 0).all() and len(errors) == len(allocation.timesteps)


def test_every_class_has_its_share(generated):
    images, labels = real("train")
    classifier = SVC(C=10).fit(images.reshape(len(images), -1) / 255, labels)
    held_out, held_out_labels = real("test")
    assert classifier.score(held_out.reshape(len(held_out), -1) / 255, held_out_labels) > 0.97
    shares = np.bincount(classifier.predict(generated.reshape(len(generated), -1) / 255), minlength=10) / len(generated)
    print("shares of the classes:", shares)
    assert shares.min() >= 0.03


ROUND_TRIP = """
import dataclasses, json, sys
import numpy as np
import marble
from marble.data.preprocess import to_float, to_uint8
from marble.data.sources import open_source

images = np.asarray(to_uint8(to_float(open_source("digits").read("test").image, 17), 17))
x_0, found = 2 * images / np.float32(255) - 1, {}
for derived, samplers in ((False, ("ode", "dpm_solver_2m")), (True, ("ode", "dpm_solver_2m", "heun", "ddim"))):
    pipe = marble.load(sys.argv[1])
    pipe.config = dataclasses.replace(pipe.config, use_clipped_model_output=derived)
    noise = pipe.invert(images, steps=200, batch_size=180)
    for sampler in samplers:
        again = pipe.sample(360, noise=noise, sampler=sampler, steps=200, batch_size=180, as_float=True)
        levels = np.abs(again - x_0) * 255 / 2
        found[f"{sampler}, {derived}"] = [round(float(x), 2) for x in (levels.max(), np.quantile(levels, 0.999))]
print(json.dumps(found))
"""


def test_held_out_digits_come_back_from_their_noise(folder):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    words = [sys.executable, "-c", ROUND_TRIP, str(folder / "run")]
    said = subprocess.run(words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=3000)
    found = json.loads(said.stdout)
    print("sampler, use_clipped_model_output: the farthest pixel, 99.9 % of them, in grey levels of 255:", found)
    assert found["ode, False"][0] <= 2
    assert found["ode, True"][0] <= 2 and found["heun, True"][0] <= 2 and found["dpm_solver_2m, True"][0] <= 2


def test_a_young_average_draws_digits_though_it_is_meant_for_long_trainings(tmp_path):
    words = ["--config.training.ema_decay=0.9999", "--config.training.num_steps=1500"]
    train = marble("train", "--config", "configs/digits.py", *words, "--workdir", tmp_path / "run", optimised=True)
    finished(train, timeout=3000)
    accuracy = against_training(drawn(tmp_path))
    print("1,500 steps, ema_decay 0.9999:", accuracy)
    assert accuracy <= 0.70
