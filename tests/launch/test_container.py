"""The Dockerfile, without building it: that it installs what there is, and runs marble as nobody special."""

import configparser
import re

from launching import ROOT

TEXT = (ROOT / "launch" / "Dockerfile").read_text()
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def test_it_runs_marble_and_not_as_root():
    names = [name for name, _ in STEPS]
    assert ["ENTRYPOINT", '["marble"]'] in STEPS and ["FROM", "python:3.12-slim"] in STEPS
    user = next(value for name, value in STEPS if name == "USER")
    assert user != "root" and names.index("USER") < names.index("ENTRYPOINT")


def test_its_extras_and_those_of_the_scripts_exist():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = TEXT + "".join(path.read_text() for path in (ROOT / "launch").glob("*.sh"))
    named = {extra for extras in re.findall(r"\b[a-z0-9]+,gcs\b", text) for extra in extras.split(",")}
    assert {"tpu", "gcs", "cuda13"} == named <= set(config["options.extras_require"])


def test_the_image_has_no_leftovers_and_all_that_is_installed():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "runs", ".venv*"} <= set(ignored)
    assert not {"src", "configs", "README.md", "setup.cfg", "pyproject.toml", "LICENSE"} & set(ignored)
