"""The page of a model that needs no training; tests here can import what lies beside them."""

import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from painters import Words, painter

from marble.demo.limits import Limits
from marble.demo.model import Model


@pytest.fixture(scope="session")
def limits():
    return Limits(max_queue=8, max_bytes=2**20)


@pytest.fixture(scope="module")
def model(limits):
    return Model.of(painter(), "painter", ("euler",), limits)


@pytest.fixture(scope="module")
def text_model(limits):
    return Model.of(painter(Words), "painter", ("euler",), limits)


@pytest.fixture(scope="session")
def free_port():
    """A function that gives a port nobody listens on."""

    def found():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return found
