"""marble export: the folder draws what marble sample draws, in a process that has jax and numpy and nothing else."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import processes
import pytest
import small_pipelines
from PIL import Image

from marble.cli.main import main
from marble.errors import InputError
from marble.export import export
from marble.export.standalone import Fault, Sampler
from marble.export.standalone import main as sample_py
from marble.parallel import ParallelConfig
from marble.pipelines import DiffusionPipeline, VAEPipeline

NEEDED = {"jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "opt_einsum"}
"""What pip installs for ``jax numpy``."""

ALONE = f"""
import importlib.machinery as machinery, runpy, sys
class Alone(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.split(".")[0]
        known = top in {NEEDED!r} or top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        return super().find_spec(name, path, target) if known else None
sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter, Alone]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A Python to which all other packages are not there, whatever is installed."""


def opened(folder):
    """The pipeline on one device, as the program is."""
    return small_pipelines.opened(folder, mapping=ParallelConfig().open(jax.devices()[:1]), batch_size=4)


def alone(folder, *words):
    """python FOLDER/sample.py WORDS, where nothing but jax, numpy and what they need can be imported."""
    command = [sys.executable, "-c", ALONE, str(folder / "sample.py"), *map(str, words)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A pipeline of latents that is told of classes, and its export for all platforms."""
    folder = tmp_path_factory.mktemp("classes")
    pipe = opened(small_pipelines.classes(folder / "in"))
    return pipe, export(pipe, folder / "out", steps=3)


@pytest.fixture(scope="module")
def sampler(classes):
    """The program of classes, compiled once."""
    return Sampler(classes[1])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """One that is told of texts."""
    folder = tmp_path_factory.mktemp("texts")
    pipe = opened(small_pipelines.stable_diffusion(folder / "in"))
    return pipe, export(pipe, folder / "out", steps=3, platforms=("cpu",))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The folder of a model of pixels that is told nothing, and its export by the command line."""
    folder = tmp_path_factory.mktemp("pixels")
    small_pipelines.pixels(folder / "in")
    words = ["--workdir", folder / "in", "--out", folder / "out", "--platforms", "cpu", "--batch_size", "4"]
    assert main(["export", *map(str, words)]) == 0
    return folder


def check_same(drawn, pipe, num, **asked):
    """The same images; of floats, XLA may take two programs' last digits differently."""
    images, floats = drawn
    wanted = pipe.sample(num, as_float=True, **asked)
    assert wanted.std() > 0.05
    np.testing.assert_allclose(floats, wanted, atol=1e-5)
    difference = np.abs(images.astype(int) - pipe.sample(num, **asked))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_classes_in_latents_are_as_marble_draws_them(classes, sampler):
    pipe = classes[0]
    asked = dict(seed=7, first=2, steps=4)
    # Six images are two batches of four, and one program draws all of these.
    drawn = sampler.draw(6, **asked, label="dog", **{"guidance.scale": 3.0})
    check_same(drawn, pipe, 6, labels="dog", guidance_scale=3.0, **asked)
    check_same(sampler.draw(3, seed=1, label=2), pipe, 3, seed=1, labels=2, steps=3)
    one_each = sampler.draw(3, seed=1, rows={"label": np.array([0, 1, 2])})
    check_same(one_each, pipe, 3, seed=1, labels=[0, 1, 2], steps=3)
    assert not np.array_equal(drawn[0], sampler.draw(6, **asked, label="cat", **{"guidance.scale": 3.0})[0])


def test_image_i_depends_on_the_seed_and_i_alone(sampler):
    whole = sampler.draw(6, seed=5, label=0)[0]
    np.testing.assert_array_equal(sampler.draw(2, seed=5, first=4, label=0)[0], whole[4:])
    assert not np.array_equal(sampler.draw(6, seed=6, label=0)[0], whole)


def test_texts_are_as_marble_draws_them(texts):
    pipe, out = texts
    sampler = Sampler(out)
    prompts = ["a red fox", "a hare " * 20, ""]
    asked = dict(seed=3, steps=4, text=prompts)
    check_same(sampler.draw(3, negative_text="blurry", **asked), pipe, 3, negative_text="blurry", **asked)
    check_same(sampler.draw(3, **asked), pipe, 3, **asked)
    # The tokens themselves, as from a machine that has the tokenizer
    rows = pipe.rows(3, seed=3, request={"text": prompts})
    by_rows = sampler.draw(3, seed=3, steps=4, rows={"tokens_0": rows["tokens_0"]})
    np.testing.assert_array_equal(by_rows[1], sampler.draw(3, **asked)[1])


@pytest.mark.end_to_end
def test_pixels_are_those_of_marble_sample_bit_for_bit_by_jax_and_numpy_alone(pixels, tmp_path):
    words = ["--num", "6", "--seed", "3", "--steps", "5"]
    alone(pixels / "out", *words, "--out", tmp_path / "images.npz")
    workdir = ["--workdir", pixels / "in", "--batch_size", "4", "--out", tmp_path / "marble"]
    processes.finished(processes.marble("sample", *words, *workdir))
    drawn, wanted = (np.load(path)["arr_0"] for path in (tmp_path / "images.npz", tmp_path / "marble" / "samples.npz"))
    assert drawn.dtype == np.uint8 and drawn.std() > 5
    np.testing.assert_array_equal(drawn, wanted)


def test_pixels_are_bit_for_bit_those_of_the_pipeline(pixels, tmp_path):
    wanted = opened(pixels / "in").sample(5, seed=1, steps=3, as_float=True)
    np.testing.assert_array_equal(Sampler(pixels / "out").draw(5, seed=1, steps=3)[1], wanted)


def test_a_picture_shows_the_images_in_rows(pixels, tmp_path, monkeypatch):
    def words(name):
        return ["--num", "5", "--steps", "2", "--out", str(tmp_path / name)]

    monkeypatch.setattr("marble.export.standalone.__file__", str(pixels / "out" / "sample.py"))
    assert sample_py(words("a.png")) == sample_py(words("a.npz")) == 0
    images, picture = np.load(tmp_path / "a.npz")["arr_0"], np.asarray(Image.open(tmp_path / "a.png"))
    h, w = images.shape[1:3]
    assert picture.shape[:2] == (2 * h, 3 * w)
    np.testing.assert_array_equal(picture[h:, w : 2 * w].reshape(images[4].shape), images[4])
    assert not picture[h:, 2 * w :].any()


def test_no_weights_are_in_the_program_and_no_unread_ones_beside_it(classes):
    pipe, out = classes
    blob = (out / "sampler.jax_export").read_bytes()
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(pipe.all_params())]
    large = [w for w in weights if w.size >= 64 and len(np.unique(w)) > 8]
    assert len(large) > 10 and not any(w.tobytes() in blob for w in large)
    names = [weight["name"] for weight in facts_of(out)["weights"]]
    assert any("decoder" in name for name in names) and not any("encoder" in name for name in names)
    # This check can fail: a program that closes over an array has its bytes.
    closed = jax.export.export(jax.jit(lambda x: x + large[0]))(large[0])
    assert large[0].tobytes() in bytes(closed.serialize())


def test_it_is_lowered_for_all_platforms(classes):
    exported = jax.export.deserialize(bytearray((classes[1] / "sampler.jax_export").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu") and exported.nr_devices == 1
    facts = facts_of(classes[1])
    described = [*facts["weights"], *facts["arguments"]]
    assert [(tuple(a["shape"]), a["dtype"]) for a in described] == [(a.shape, str(a.dtype)) for a in exported.in_avals]
    trees = [{a["name"]: 0 for a in facts[kind]} for kind in ("weights", "arguments")]
    assert exported.in_tree == jax.tree.structure(((trees[0], trees[1]), {}))


def test_the_program_without_flatbuffers_is_that_with_it(classes, sampler, monkeypatch):
    with_it = sampler.draw(2, label=1)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.setattr(jax.export, "deserialize", None)
    np.testing.assert_array_equal(Sampler(classes[1]).draw(2, label=1)[1], with_it[1])


def test_attention_of_one_platform_gives_way_to_that_of_all(texts):
    pipe = texts[0]
    special = pipe.with_parts(model=pipe.model.clone(attention_implementation="cudnn"))
    assert special.on_any_platform().model == pipe.model and pipe.on_any_platform() is pipe
    guided = pipe.with_parts(guide=special).on_any_platform()
    assert guided.on_any_platform() is guided


def facts_of(folder):
    return json.loads((folder / "sampler.json").read_text())


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda out: (out / "weights.safetensors").unlink(), "weights.safetensors can't be read"),
        (lambda out: flipped(out / "weights.safetensors"), "weights.safetensors is damaged"),
        (lambda out: flipped(out / "sampler.jax_export"), "sampler.jax_export is damaged"),
        (lambda out: (out / "sampler.json").write_text("{"), "sampler.json can't be read"),
        (lambda out: told_of_platforms(out, ["tpu"]), "is for tpu, and jax runs on cpu"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_line(classes, tmp_path, harm, message, capsys, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(classes[1], out)
    harm(out)
    monkeypatch.setattr("marble.export.standalone.__file__", str(out / "sample.py"))
    assert sample_py(["--label=1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("sample.py: ") and message in said


def told_of_platforms(out, platforms):
    (out / "sampler.json").write_text(json.dumps({**facts_of(out), "platforms": platforms}))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(label="bird"), "label bird is no class: give 0 to 2, or one of cat, dog, fox"),
        (dict(label=3), "label 3 is no class"),
        (dict(label=1, steps=1001), "steps 1001 is none of those that were exported: give 1 to 999"),
        (dict(label=1, steps=0), "steps 0"),
        (dict(text="a fox"), "told no text"),
        (dict(label=1, seed=2**32), "seed"),
        (dict(rows={"labels": 1}), "reads no rows labels: it reads label"),
        (dict(rows={"label": np.array([1, 2, 0])}), "rows label of shape [3]"),
        ({"label": 1, "sampler.churn": 2.0}, "sampler.churn=2.0 is no number"),
    ],
)
def test_what_can_t_be_drawn_is_told(sampler, asked, message):
    with pytest.raises(Fault, match="^.+$") as raised:
        sampler.draw(2, **asked)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=in"], "--out is missing"),
        (
            ["--workdir=in", "--out=new", "--platforms=cpu,vulkan"],
            "--platforms has 'vulkan': give some of cpu,cuda,tpu",
        ),
        (["--workdir=in", "--out=in"], "--out in is a folder with something in it"),
        (["--workdir=nowhere", "--out=new"], "nowhere"),
        (["--workdir=in", "--out=new", "--steps=21"], "21"),
        (["--workdir=in", "--out=new", "--sampler=dpm"], "dpm"),
        (["--workdir=in", "--out=new", "--guidance_scale=2"], "guidance_scale=2"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(pixels, words, message, capsys, monkeypatch):
    monkeypatch.chdir(pixels)
    there = sorted(pixels.iterdir())
    assert main(["export", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(said) == 1 and message in said[0]
    assert sorted(pixels.iterdir()) == there


def test_models_of_other_objectives_have_no_sampler(tmp_path):
    with pytest.raises(InputError, match="a VAEPipeline has no sampler to export"):
        export(object.__new__(VAEPipeline), tmp_path / "out")


def test_without_flatbuffers_it_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install flatbuffers"):
        export(object.__new__(DiffusionPipeline), tmp_path / "out")


@pytest.mark.slow
def test_a_fresh_environment_of_jax_and_numpy_draws_the_same(classes, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"jax=={jax.__version__}", f"numpy=={np.__version__}"]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": ""}
    words = ["--num", "5", "--label", "fox", "--float", "--out", tmp_path / "images.npz"]
    subprocess.run([python, classes[1] / "sample.py", *words], check=True, env=environment)
    wanted = classes[0].sample(5, labels="fox", steps=3, as_float=True)
    np.testing.assert_allclose(np.load(tmp_path / "images.npz")["arr_0"], wanted, atol=1e-5)
