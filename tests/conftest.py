"""Every test runs on 8 virtual CPU devices, with implicit rank promotion an error.

Those marked ``device`` run on an accelerator too: MARBLE_TEST_PLATFORM=cuda pytest -m device, and likewise tpu.
"""

import os
import signal
from pathlib import Path

# A shell that starts the tests in the background has Ctrl-C ignored, nohup the end of a terminal, and so have all
# processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ["JAX_PLATFORMS"] = ",".join(dict.fromkeys([os.environ.get("MARBLE_TEST_PLATFORM", "cpu"), "cpu"]))
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["NPROC"] = "64"  # XLA's threads: with as many as devices, two programs with collectives can lock
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Two cores serve eight devices: collectives wait for each other longer than XLA's default allows.
# And compiling takes longer than running, so little is optimised. What the caller sets comes last, and wins.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120"
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + ("" if "MARBLE_TEST_PLATFORM" in os.environ else " --xla_backend_optimization_level=0")
    + " "
    + os.environ.get("XLA_FLAGS", "")
)
# Tests, and the processes that they start, share compiled programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for processes first, or the workers would end far apart."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)


@pytest.fixture
def x64():
    """Float64 for tests of formulas."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_modules():
    """A worker that kept all compiled programs would need gigabytes."""
    yield
    jax.clear_caches()
