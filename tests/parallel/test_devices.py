"""The first line of a run."""

import logging
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from marble.parallel import devices


@pytest.mark.parametrize("given", [None, "gs://bucket/cache", ""])
def test_programs_are_kept_where_the_environment_says_or_at_home(given, monkeypatch, tmp_path):
    set_to = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_to.append((name, value)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if given is not None:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    devices.use_compilation_cache()
    if given is not None:
        assert set_to == []  # jax reads it
    else:
        ((name, folder),) = set_to
        assert name == "jax_compilation_cache_dir" and folder.startswith(str(tmp_path / "marble" / "xla"))


def test_the_first_line_names_the_devices(caplog):
    with caplog.at_level(logging.INFO, logger="marble"):
        devices.log_devices()
    assert "8 x cpu" in caplog.records[0].getMessage()


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """smi(text): what `nvidia-smi` prints from now on; None for one that fails."""

    def fake(text):
        path = tmp_path / "nvidia-smi"
        path.write_text("#!/bin/sh\nexit 9\n" if text is None else f"#!/bin/sh\necho '{text}'\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return fake


def warnings(caplog):
    with caplog.at_level(logging.WARNING, logger="marble"):
        devices.log_devices()
    return caplog.messages


@pytest.mark.parametrize(("cuda", "extra"), [("12.4", "cuda12"), ("13.0", "cuda13")])
def test_an_accelerator_that_is_not_used_is_warned_of(caplog, monkeypatch, smi, cuda, extra):
    smi(f"| Driver Version: 1.2   CUDA Version: {cuda} |")
    assert warnings(caplog) == []
    monkeypatch.delenv("JAX_PLATFORMS")
    assert warnings(caplog) == [f"an NVIDIA GPU is present but jax does not see it: install marble-diffusion[{extra}]"]


def test_a_driver_that_fails_is_not_warned_of(caplog, monkeypatch, smi):
    smi(None)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("TPU_NAME", raising=False)
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: [])
    assert warnings(caplog) == []


@pytest.mark.parametrize("pattern", ["/dev/accel[0-9]*", "/dev/vfio/[0-9]*"])
def test_a_tpu_that_is_not_used_is_warned_of(caplog, monkeypatch, smi, pattern):
    smi(None)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(devices.glob, "glob", lambda asked: ["one"] if asked == pattern else [])
    assert warnings(caplog) == ["a TPU is present but jax does not see it: install marble-diffusion[tpu]"]


@pytest.mark.parametrize("text", [None, "CUDA Version: 12.9", "CUDA Version: 13.1", "CUDA Version: 10.2", "N/A"])
@pytest.mark.parametrize("tpu", ["", "a-tpu"])
def test_the_launch_scripts_name_the_same_extra(monkeypatch, smi, text, tpu):
    smi(text)
    monkeypatch.setenv("TPU_NAME", tpu)
    script = Path(__file__).parents[2] / "launch" / "environment.sh"
    ask = f'source <(sed -n "/^accelerator_extra/,/^}}/p" {script}); declare -F accelerator_extra; accelerator_extra'
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["accelerator_extra", *filter(None, [devices.accelerator_extra()])]


@pytest.mark.parametrize("gradients", [True, False])
def test_compiler_options_are_ones_that_xla_takes_and_compute_the_same(gradients):
    options = devices.compiler_options(gradients=gradients)
    assert options.keys() == {"xla_cpu_experimental_ynn_fusion_type"}
    image, kernel = (
        jax.random.normal(jax.random.key(0), (2, 8, 8, 4)),
        jax.random.normal(jax.random.key(1), (3, 3, 4, 4)),
    )

    def energy(kernel):
        convolved = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (convolved**2).sum()

    found = jax.jit(jax.grad(energy), compiler_options=options)(kernel)
    np.testing.assert_allclose(found, jax.jit(jax.grad(energy))(kernel), rtol=1e-4, atol=1e-2)


def test_other_devices_and_other_xlas_get_no_options(monkeypatch):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("No such compile option")

    devices.compiler_options.cache_clear()
    with monkeypatch.context() as context:
        context.setattr(jax, "jit", refuse)
        assert devices.compiler_options(gradients=True) == {}
        context.setattr(jax, "default_backend", lambda: "gpu")
        assert devices.compiler_options(gradients=False) == {}
    devices.compiler_options.cache_clear()
