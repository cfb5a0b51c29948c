"""How processes are found, named and agreed with; what they do together is in tests/test_hosts.py."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from marble.errors import EXIT_RESTART, InputError, PeerLostError
from marble.parallel import hosts
from marble.training.interruption import Interruption

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(hosts, "accelerator_extra", lambda: None)


def test_an_explicit_cluster_is_taken_as_it_is():
    assert hosts.cluster({**SLURM, **EXPLICIT}) == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM, {}),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # within sbatch or salloc, without srun
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, {}),
        ({"JAX_FORCE_TPU_INIT": "1"}, {}),
        ({"JAX_FORCE_TPU_INIT": "1", "TPU_SKIP_MDS_QUERY": "1"}, None),
    ],
)
def test_where_jax_finds_a_cluster_it_is_asked(environment, expected):
    assert hosts.cluster(environment) == expected


def test_a_tpu_vm_asks_its_metadata_server(monkeypatch):
    monkeypatch.setattr(hosts, "accelerator_extra", lambda: "tpu")
    assert hosts.cluster({}) == hosts.cluster({"JAX_PLATFORMS": "tpu,cpu"}) == {}
    assert hosts.cluster({"JAX_PLATFORMS": "cpu"}) is None  # a second command, beside the one that has the TPU


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES=, JAX_PROCESS_ID=3: set all three"),
        ({"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID=one: set all three, the last two to whole numbers"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "the first must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "the first must be HOST:PORT"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 must be between 0 and 3, for JAX_NUM_PROCESSES=4"),
    ],
)
def test_half_of_a_cluster_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        hosts.cluster({**EXPLICIT, **changes})


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=f"port {port} of JAX_COORDINATOR_ADDRESS is in use"):
            hosts.start()


def host(process, address):
    return hosts.Host(process, f"host{process}", address, 1, "1 x cpu", "jax 1")


TABLE = [host(0, "10.0.0.1"), host(1, "10.0.0.2"), host(2, "10.0.0.3"), host(3, "10.0.0.3")]


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Gloo all-reduce failed: Read error [10.0.0.2]:9541: Connection reset by peer", "process 1 on host1"),
        ("Gloo all-reduce failed: Connection closed by peer [10.0.0.3]:9541", "another process, one of 2, 3"),
        ("Gloo: Connection closed by peer [10.0.0.22]:9541", "another process"),
        ("UNAVAILABLE: the coordination service", "another process"),
    ],
)
@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_the_lost_one_is_named_where_an_address_tells(kind, message, name):
    with (
        pytest.raises(PeerLostError, match=f"^lost {name} \\(.*run the same command again"),
        hosts.explained_loss(TABLE),
    ):
        raise kind(message)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (TABLE, jax.errors.JaxRuntimeError("INTERNAL: something else")),
        (TABLE[:1], jax.errors.JaxRuntimeError("Gloo: Connection closed by peer")),
        (TABLE, InputError("parallel.heartbeat_timeout_seconds=0 is not positive")),
    ],
)
def test_other_errors_stay_as_they_are(table, error):
    with pytest.raises(type(error)) as caught, hosts.explained_loss(table):
        raise error
    assert caught.value is error


def test_one_process_is_its_own_roll():
    (row,) = hosts.call_roll(config="abc")
    assert row.process == 0 and row.devices == "8 x cpu"


def test_devices_of_processes_that_never_joined_are_found_out(monkeypatch):
    class Device:
        device_kind = "TPU v4"

        def __init__(self, process_index):
            self.process_index = process_index

    monkeypatch.setattr(jax, "devices", lambda: [Device(0), Device(1)])
    with pytest.raises(InputError, match="devices of 2 processes are seen, but 1 joined: start the same command"):
        hosts.call_roll()


def test_an_abort_ends_with_the_status_to_restart():
    program = (
        "import ctypes, threading, time\nfrom marble.parallel import hosts\n"
        "hosts._exit_on_abort('another process is lost')\n"
        "threading.Thread(target=ctypes.CDLL(None).abort).start()\ntime.sleep(30)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_RESTART != -signal.SIGABRT
    assert "another process is lost" in done.stderr and time.monotonic() - began < 25


def failing(**_):
    raise ConnectionError("metadata.google.internal: no such host")


def test_a_tpu_that_nobody_tells_of_others_goes_on_alone(monkeypatch, caplog):
    monkeypatch.setattr(hosts, "accelerator_extra", lambda: "tpu")
    for name in ("TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", failing)
    monkeypatch.setattr(hosts, "_is_alone", False)
    for _ in range(2):
        Interruption().run(hosts.start)  # in a thread, as when training
    assert caplog.text.count("no such host): going on with this one") == 1
    assert signal.getsignal(signal.SIGABRT) is signal.SIG_DFL
    aborted = "import ctypes; from marble.parallel import hosts; hosts._exit_on_abort('lost')\n"
    aborted += "ctypes.CDLL(None).signal(6, None); ctypes.CDLL(None).abort()"
    assert subprocess.run([sys.executable, "-c", aborted], timeout=60).returncode == -signal.SIGABRT


def test_a_task_of_slurm_does_not_go_on_alone(monkeypatch):
    """The others would do the same, and all of them write one workdir."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", failing)
    with pytest.raises(PeerLostError, match="not all processes came"):
        hosts.start()


def test_processes_that_do_not_come_are_missed():
    """The first of two, which waits for the second."""
    program = (
        "import sys\nfrom marble.cli import main\nfrom marble.parallel import hosts\nhosts.START_SECONDS = 3\n"
        "sys.argv = ['marble', 'sample', '--workdir', 'nowhere']\nmain.run()"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **cluster}, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == EXIT_RESTART
    said = done.stderr.splitlines()[-1]
    assert said.startswith("marble: not all processes came within 3 s") and address in said
