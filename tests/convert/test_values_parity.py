"""What diffusers and transformers write by themselves is never refused as a value that can't be."""

import inspect
import json

import pytest

from marble.convert.kinds import KINDS
from marble.convert.scheduler_classes import KINDS as SCHEDULERS
from marble.convert.values import check_values

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity


def defaults(name):
    """Every argument of a class that can be left out, as its config has it."""
    if not hasattr(diffusers, name):
        return getattr(transformers, name).config_class().to_dict()
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    said = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {"_class_name": name, **said}


@pytest.mark.parametrize("name", sorted({*KINDS, *SCHEDULERS} - {"DPMSolverSDEScheduler"}))  # which needs torchsde
def test_the_defaults_of_each_class_are_taken(name):
    config = json.loads(json.dumps(defaults(name), default=str))
    assert len(config) > 3
    check_values(config, "config.json")
