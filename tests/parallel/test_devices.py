"""The first line of a run."""

import logging

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
