"""TPUs by name."""

import importlib.util
import json
import subprocess
import sys

import pytest

from marble.errors import InputError
from marble.parallel import topology
from marble.parallel.chips import chip

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize("name", ["v5e", "v5e-8", "v5litepod-8", "2x4", "v5e:8", "v9:2x2", "v4:2x2x1x1", ""])
def test_what_is_no_name_is_refused_with_one_that_is(name):
    with pytest.raises(InputError, match=f"--topology {name} is no TPU's name: write GENERATION:SIZE, such as v5e:2x4"):
        topology.tpu_devices(name)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs libtpu, which is not installed: pip install 'marble-diffusion\[tpu\]'"
    ):
        topology.tpu_devices("v5e:2x4")


COUNTS = {"v4:2x2x1": 4, "v4:2x2x2": 8, "v5e:1x1": 1, "v5e:2x4": 8, "v5p:2x2x1": 4, "v6e:4x4": 16, "tpu7x:2x2x1": 8}


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_a_slice_has_its_chips():
    """Of tpu7x two devices a chip, of all others one. In a process of its own: libtpu handles signals."""
    program = (
        "import json, os, sys; from marble.parallel.topology import tpu_devices; before = dict(os.environ)\n"
        f"found = [(len(d), d[0].device_kind) for d in map(tpu_devices, {list(COUNTS)})]\n"
        "assert dict(os.environ) == before\n"
        "try: tpu_devices('v5e:3x5')\n"
        "except ValueError as error: print(json.dumps([found, str(error)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found, refused = json.loads(done.stdout)
    assert [count for count, _ in found] == list(COUNTS.values())
    assert all(chip(kind) for _, kind in found)
    assert "--topology v5e:3x5: " in refused and "give a slice that there is, such as v5e:2x4" in refused
