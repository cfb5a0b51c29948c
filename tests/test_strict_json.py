"""What marble writes as JSON is JSON: other readers than Python's have no NaN and no Infinity."""

import json
import math

import pytest

from marble import strict_json, workdir
from marble.cli.main import main
from marble.cli.train import configured
from marble.pipelines import ImageSpec


def strictly(text):
    """What a reader finds that knows no NaN and no Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("indent", [None, 2])
def test_measurements_have_null_for_no_number(indent):
    values = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2)}], "d": "NaN", "e": True, "f": None}
    expected = {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN", "e": True, "f": None}
    assert strictly(strict_json.dumps(values, indent=indent)) == expected


def test_what_is_finite_is_written_as_python_does():
    values = {"a": [1, 2.5e-30, "é"], "b": {"c": False}}
    assert strict_json.dumps(values, indent=1) == strict_json.dumps_config(values, indent=1)
    assert strict_json.dumps(values) == json.dumps(values)


def test_a_config_comes_back_with_its_infinities():
    config = {"sampling": {"s_max": math.inf, "low": -math.inf, "name": "inf", "interval": (0.5, math.inf)}}
    found = strictly(strict_json.dumps_config(config, indent=2))
    assert found == {"sampling": {"s_max": math.inf, "low": -math.inf, "name": "inf", "interval": [0.5, math.inf]}}


def test_a_workdir_s_config_is_json(tmp_path, capsys):
    words = ["--config.sampling.sampler=heun"]  # which has an s_max, by default infinity
    assert main(["train", "--config", "digits:smoke", "--print_config", *words]) == 0
    config = configured("digits:smoke", words).to_dict()
    assert strictly(capsys.readouterr().out)["sampling"]["s_max"] == config["sampling"]["s_max"] == math.inf
    facts = workdir.DataFacts(ImageSpec((8, 8, 1), 17), {"train": 1}, "digits")
    workdir.remember(str(tmp_path), config, facts)
    strictly((tmp_path / "config.json").read_text())
    assert workdir.check(str(tmp_path), config, facts) == []
