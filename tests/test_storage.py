"""Paths as users give them."""

import os
from pathlib import Path

import pytest
from PIL import Image

from marble import builders, loading, run
from marble.cli import edit, sample
from marble.cli.flags import parse
from marble.cli.main import main
from marble.config import load_config
from marble.data.sources import open_source
from marble.errors import InputError
from marble.parallel.devices import compilation_cache
from marble.storage import run_path

BYTES = os.fsdecode(b"run\xff")
"""A name that is not UTF-8."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder; the current one is elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert not [path for path in (tmp_path / "elsewhere").iterdir() if path.name.startswith("~")]


@pytest.mark.parametrize("name", ["workdir", "guide", "out", "init_image", "mask"])
def test_a_flag_s_tilde_is_the_home_folder(home, name):
    values = parse("sample", "", [f"--{name}=~/x y"], sample.define)
    assert values[name].value == str(home / "x y")
    for same in (f"{home}/x", "x~", "a/~/b", "~nobody-of-this-name/x"):
        values = parse("sample", "", [f"--{name}={same}"], sample.define)
        assert values[name].value == same


def test_so_it_is_in_both_ends_of_an_interpolation(home):
    for words, second in (["--interpolate", "~/a.png", "~/b, c.png"], "b, c.png"), (["--interpolate=~/a.png,~/b"], "b"):
        values = parse("sample", "", edit.joined(words), sample.define)
        assert edit.ends_of(values) == [str(home / "a.png"), str(home / second)]


@pytest.mark.slow
def test_a_run_and_its_config_lie_in_the_home_folder(home):
    (home / "mine.py").write_text("from marble.configs.digits import get_config\n")
    config = builders.complete(load_config("~/mine.py:smoke"))
    run.run(config, "~/run")
    assert (home / "run" / "checkpoints" / "2").is_dir() and (home / "run" / "metrics.jsonl").exists()
    for workdir in ("~/run", Path("~/run"), str(home / "run")):
        assert loading.load(workdir, guide="~/run").image.levels == 17
    assert main(["sample", "--workdir=~/run", "--num=2", "--steps=1", "--out=~/pictures"]) == 0
    assert (home / "pictures" / "samples.png").exists()


def test_data_lie_in_the_home_folder(home):
    (home / "images").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i).save(home / "images" / f"{i}.png")
    assert open_source("image_folder", source="~/images", data_dir="~/data").splits == {"train": 3}
    assert (home / "data" / "marble_image_folder").is_dir()


def test_compiled_programs_may_lie_there_too(home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~/programs")
    assert compilation_cache() == str(home / "programs")


@pytest.mark.parametrize("path", [BYTES, f"/tmp/{BYTES}/run", f"~/{BYTES}"])
def test_a_run_s_name_that_is_not_utf_8_is_refused_with_the_remedy(home, path):
    for use in (lambda: run_path("the workdir", path), lambda: loading.load(path)):
        with pytest.raises(
            InputError, match="the workdir .* has a name that is not UTF-8, .*: give another, or rename"
        ):
            use()
    for words in (["train", "--config=digits:smoke"], ["sample"]):
        assert main([*words, f"--workdir={path}"]) == 2
    assert not list(home.iterdir())


def test_a_folder_of_such_a_name_around_it_is_found_before_the_first_save(tmp_path, monkeypatch, capsys):
    (tmp_path / BYTES).mkdir()
    monkeypatch.chdir(tmp_path / BYTES)
    assert main(["train", "--config=digits:smoke", "--workdir=run"]) == 2
    assert "not UTF-8" in capsys.readouterr().err and not list(Path().iterdir())


def test_images_may_lie_in_such_a_folder_but_not_be_called_so(tmp_path):
    folder = tmp_path / BYTES
    folder.mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    assert open_source("image_folder", source=folder, data_dir=tmp_path / "data").splits == {"train": 3}
    with pytest.raises(InputError, match="the data folder .* not UTF-8"):
        open_source("image_folder", source=folder, data_dir=tmp_path / BYTES)
    Image.new("L", (8, 8), 3).save(folder / f"{BYTES}.png")
    with pytest.raises(InputError, match="is not Unicode: rename the file"):
        open_source("image_folder", source=folder, data_dir=tmp_path / "other")
