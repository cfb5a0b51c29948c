"""Every test runs on 8 virtual CPU devices, with implicit rank promotion an error."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Two cores serve eight devices: collectives wait for each other longer than XLA's default allows.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_cpu_collective_call_warn_stuck_timeout_seconds=120"
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import jax
import pytest


@pytest.fixture
def x64():
    """Float64 for tests of formulas."""
    with jax.enable_x64(True):
        yield
