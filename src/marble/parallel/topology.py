"""TPUs by name, on a machine without one: libtpu compiles for them, and says what a program would need."""

import importlib.util
import re

import jax
from jax.experimental import topologies

from marble import environment
from marble.errors import InputError

NAME = re.compile(r"(v2|v3|v4|v5e|v5p|v6e|tpu7x):(\d+(?:x\d+){1,2})")
SPELLING = "v5e:2x4, v4:2x2x1, v5p:2x2x1, v6e:2x4 or tpu7x:2x2x1"
HOST = (2, 2, 1)
"""The chips of a host along each axis, where a slice has so many."""
CHIP_CONFIGS = {"v4": "megacore"}
"""Where libtpu's default is not how Cloud TPUs run: there a v4 chip's two cores are one device."""
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask which TPU this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do, and without one libtpu warns
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # other processes may use theirs, for no device is opened
}
"""With which libtpu, which reads it when it is loaded, does not look for this machine's TPU."""


def tpu_devices(name: str) -> tuple[jax.Device, ...]:
    """The devices of a slice such as ``v5e:2x4``, for which programs can be compiled but not run.

    jax is kept to the CPU, so call this before anything starts its backends. InputError for a name that is no TPU's,
    and where libtpu is missing.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise InputError(f"--topology {name} is no TPU's name: write GENERATION:SIZE, such as {SPELLING}")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology {name} needs libtpu, which is not installed: pip install 'marble-diffusion[tpu]'")
    generation, size = found.groups()
    chips = [int(length) for length in size.split("x")]
    options = {"chip_config_name": CHIP_CONFIGS[generation]} if generation in CHIP_CONFIGS else {}
    options["chips_per_host_bounds"] = [
        min(chip, host) for chip, host in zip([*chips, *[1] * (3 - len(chips))], HOST, strict=True)
    ]
    jax.config.update("jax_platforms", "cpu")
    try:
        with environment.changed(ENVIRONMENT):
            return tuple(topologies.get_topology_desc(name, "tpu", **options).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"--topology {name}: {reason}; give a slice that there is, such as {SPELLING}") from error
