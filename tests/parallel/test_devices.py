"""The first line of a run."""

import logging

import jax
import numpy as np
import pytest

from marble.parallel import devices


def test_the_first_line_names_the_devices(caplog):
    with caplog.at_level(logging.INFO, logger="marble"):
        devices.log_devices()
    assert "8 x cpu" in caplog.records[0].getMessage()


def test_an_accelerator_that_is_not_used_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/bin/" + name)
    monkeypatch.delenv("JAX_PLATFORMS")
    with caplog.at_level(logging.INFO, logger="marble"):
        devices.log_devices()
    assert "NVIDIA GPU is present" in caplog.text and "marble[cuda13]" in caplog.text


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
