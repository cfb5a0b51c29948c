"""The wheel: all of marble, under a name that is no other project's, and it works outside of the checkout."""

import email
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from processes import ROOT

import marble

PARTS = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "src", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy: a build leaves files behind, and would take up those that an earlier one has left."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "copy").mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / "copy" / part, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        else:
            shutil.copy(source, folder / "copy" / part)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "copy")
    (built,) = folder.glob("*.whl")
    return built


def pip(*words):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(files.read(name))
    assert wheel.name == f"marble_diffusion-{marble.__version__}-py3-none-any.whl"
    assert metadata["Name"] == "marble-diffusion" and metadata["Version"] == marble.__version__
    assert metadata["License"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Author"] and "diffusion models" in metadata["Keywords"]
    assert "jax" in metadata["Summary"].lower() and metadata.get_payload().startswith("# marble")


def test_it_has_every_module_and_config(wheel):
    with zipfile.ZipFile(wheel) as files:
        inside = {name for name in files.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    configs = {f"marble/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert inside == modules | configs | {"marble/py.typed"}


def test_it_works_outside_of_the_checkout(wheel, tmp_path):
    pip("install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def said(*command):
        where = dict(cwd=tmp_path / "empty", env=environment)
        return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, **where).stdout

    command = str(tmp_path / "site" / "bin" / "marble")
    assert said("-c", "import marble; print(marble.__file__)").startswith(str(tmp_path / "site"))
    assert said(command, "--version").strip() == marble.__version__
    config = json.loads(said(command, "train", "--config", "digits:smoke", "--print_config"))
    assert config["data"]["name"] == "digits" and config["training"]["num_steps"] == 2
