"""The launch scripts with marble itself: processes that train together, lose one another, and go on."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from launching import ROOT, SRUN, command, environment, launch
from processes import TINY, assert_same_run, final_state

from marble import checkpoint

pytestmark = pytest.mark.end_to_end

NUM_STEPS = 60
OPTIONS = [
    f"--config.training.num_steps={NUM_STEPS}",
    "--config.training.log_every=10",
    "--config.training.eval_every=0",
    "--config.training.sample_every=0",
    "--config.training.checkpoint_every=5",
]
# jax says so on machines without a TPU, and then asks no metadata server.
UNSKIPPED = """
import os
class Environ(type(os.environ)):
    def __setitem__(self, key, value):
        if key != "TPU_SKIP_MDS_QUERY":
            super().__setitem__(key, value)
os.environ.__class__ = Environ
"""


@pytest.fixture(autouse=True)
def program(tmp_path):
    """marble on PATH, as installed."""
    command(tmp_path, "marble", f"cd '{ROOT}' && exec '{sys.executable}' -m marble.cli.main \"$@\"")


def train(workdir) -> list[str]:
    return ["--", "marble", "train", *TINY, *OPTIONS, "--workdir", str(workdir)]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def cpu() -> dict[str, str]:
    """What the tests' own conftest says of the CPU, for processes of one device."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    return {**kept, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT / "src")}


@contextlib.contextmanager
def local(folder, workdir) -> Iterator[subprocess.Popen]:
    """local.sh with two processes, which end with the block."""
    options = ["--processes", "2", "--devices_per_process", "1", "--port", free_port(), "--pause", "0", "--grace", "30"]
    process = subprocess.Popen(
        ["bash", ROOT / "launch/local.sh", *options, *train(workdir)],
        cwd=folder,
        env=environment(folder, **cpu()),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def finished(process, workdir) -> str:
    """Waits for local.sh, and returns what it said."""
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said + "".join(log.read_text() for log in (workdir / "logs").iterdir())
    return said


def trains(process_id: int, workdir) -> int:
    """The pid of the process with that JAX_PROCESS_ID, once it is there."""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        of_the_run = str(workdir).encode() in words and b"marble.cli.main" in words
        if of_the_run and f"JAX_PROCESS_ID={process_id}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"process {process_id} of {workdir} does not run")


def wait_for_step(workdir, step, seconds=120):
    end = time.monotonic() + seconds
    while max(checkpoint.saved_steps(str(workdir)), default=0) < step:
        assert time.monotonic() < end, f"no checkpoint of step {step}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    command(folder, "marble", f"cd '{ROOT}' && exec '{sys.executable}' -m marble.cli.main \"$@\"")
    workdir = folder / "run"
    with local(folder, workdir) as process:
        assert finished(process, workdir) == ""
    assert final_state(workdir)[0] == NUM_STEPS
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "lost"),
    [
        (signal.SIGKILL, 1),
        (signal.SIGKILL, 0),
        (signal.SIGTERM, 0),
        (signal.SIGTERM, 1),
    ],
)
def test_two_processes_of_which_one_is_lost_or_asked_to_stop_end_as_two_that_were_not(
    uninterrupted, tmp_path, number, lost
):
    workdir = tmp_path / "it's my run"
    with local(tmp_path, workdir) as process:
        wait_for_step(workdir, 10)
        os.kill(trains(lost, workdir), number)
        said = finished(process, workdir)
    assert "starting all 2 again (1 of at most 100 times)" in said
    if number == signal.SIGKILL:
        assert f"process {lost} was killed by SIGKILL (137)" in said
    else:
        assert said.count("ended with exit status 75") == 2
    assert_same_run(workdir, uninterrupted)


class Metadata(BaseHTTPRequestHandler):
    """What a TPU VM asks of its metadata server."""

    def do_GET(self):
        answers = {
            "agent-worker-number": str(self.server.worker),
            "worker-network-endpoints": "u:8470:127.0.0.1,u:8470:127.0.0.1",
            "tpu-env": "ZONE: 'z'",
        }
        answer = answers.get(self.path.rpartition("/")[2])
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write((answer or "").encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def slice_of_two(tmp_path):
    """A cloud in a folder, whose slices have two workers, each with a metadata server."""
    (tmp_path / "workers").write_text("2")
    command(tmp_path, "gcloud", f"exec '{sys.executable}' -S -E '{ROOT}/tests/fake_gcloud.py' \"$@\"")
    command(tmp_path, "python", f'[[ "$*" == "-m pip"* ]] || exec "{sys.executable}" "$@"')
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(UNSKIPPED)
    shared = {"JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": free_port()}
    shared["PYTHONPATH"] = f"{tmp_path}/site:{ROOT}/src"
    servers = []
    for worker in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
        server.worker = worker
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        own = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        (tmp_path / f"environment-{worker}").write_text(json.dumps({**shared, **own}))
    yield tmp_path
    tpu_vm(tmp_path, "stop")
    for server in servers:
        server.shutdown()


def tpu_vm(folder, action, *given):
    cloud = {"FAKE_CLOUD": str(folder), "VIRTUAL_ENV": str(folder), **cpu()}
    return launch(folder, "tpu_vm.sh", action, "--name", "n", "--zone", "z-a", *given, timeout=240, **cloud)


def worker_log(folder, worker) -> str:
    return (folder / "slices" / "n" / f"worker-{worker}" / "marble-run" / "log").read_text()


@pytest.mark.slow
def test_the_workers_of_a_slice_train_together_and_go_on_after_one_is_lost(uninterrupted, slice_of_two):
    folder, workdir = slice_of_two, slice_of_two / "it's my run"
    done = tpu_vm(folder, "up", "--accelerator_type", "v5e-16", *train(workdir))
    assert done.returncode == 0, done.stderr
    wait_for_step(workdir, 10)
    supervisor = (folder / "slices" / "n" / "worker-1" / "marble-run" / "pid").read_text().strip()
    (lost,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    os.kill(int(lost), signal.SIGKILL)
    watched = tpu_vm(folder, "watch", "--accelerator_type", "v5e-16", "--poll", "1", *train(workdir))
    logs = [worker_log(folder, worker) for worker in range(2)]
    assert watched.returncode == 0 and watched.stdout.count(": done\n") == 2, "\n".join(logs)
    assert "was killed by SIGKILL (137)" in logs[1]
    assert all("starting it again (1 of at most 100 times)" in log for log in logs)
    assert_same_run(workdir, uninterrupted)


@pytest.mark.slow
def test_the_tasks_of_a_slurm_job_train_together(uninterrupted, tmp_path):
    workdir = tmp_path / "it's my run"
    command(tmp_path, "sbatch", 'printf "%s" "${@: -1}" > job')
    command(tmp_path, "srun", SRUN)
    assert launch(tmp_path, "slurm.sh", "--nodes", 1, "--gpus_per_node", 2, *train(workdir)).returncode == 0
    job = (tmp_path / "job").read_text().removeprefix("--wrap=")
    slurm = {"SLURM_JOB_ID": free_port(), "SLURM_NTASKS": "2"}  # of which jax makes the port
    done = subprocess.run(
        ["sh", "-c", job],
        cwd=tmp_path,
        env=environment(tmp_path, **cpu(), **slurm),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(workdir, uninterrupted)
