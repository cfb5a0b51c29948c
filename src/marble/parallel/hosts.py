"""Several processes as one program: how they find each other, and learn that one of them is lost.

``start`` finds the cluster in the environment, ``call_roll`` lists it, ``explained_loss`` names who is gone. With one
process all of this is nothing. What they tell each other meanwhile is in ``agreement``.
"""

import contextlib
import ctypes
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib

import marble
from marble.errors import EXIT_RESTART, InputError, PeerLostError
from marble.parallel.agreement import check_same, gathered, is_first
from marble.parallel.devices import accelerator_extra, log_devices

logger = logging.getLogger(__name__)

START_SECONDS = 300
"""How long a process waits for the others to start."""
COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
LOST = re.compile(
    r"gloo|connection (closed|reset|refused)|broken pipe|socket closed|nccl|heartbeat|coordination|distributed service"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED",
    re.IGNORECASE,
)
"""What the runtimes say when a process is gone: gloo, NCCL, and the coordination service."""


class Host(NamedTuple):
    """A row of the roll: one process."""

    process: int
    name: str
    address: str
    pid: int
    devices: str
    versions: str


def start(*, heartbeat_timeout_seconds: int = 60) -> None:
    """Joins the other processes, where the environment says that there are any; before anything touches a device.

    Explicit is JAX_COORDINATOR_ADDRESS=HOST:PORT with JAX_NUM_PROCESSES and JAX_PROCESS_ID; Cloud TPU VMs, GKE and
    SLURM are found by jax. InputError for half of an explicit address, PeerLostError when not all processes come.
    """
    global _is_alone
    if jax.distributed.is_initialized() or _is_alone:
        return
    arguments = cluster(os.environ)
    if arguments is None:
        return
    # The handler of jax's own service would take SIGTERM from ours.
    jax.config.update("jax_enable_preemption_service", False)
    where = arguments.get("coordinator_address") or "the first of them"
    if arguments.get("process_id") == 0:
        _check_free(int(where.rpartition(":")[2]))
    missing = (
        f"not all processes came within {START_SECONDS} s: see the log of each host, and that {where} can be reached "
        "from the others; then run the same command again, on all of them"
    )
    _exit_on_abort(missing)
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
        )
    except (RuntimeError, OSError, ValueError) as error:
        if arguments or isinstance(error, RuntimeError) or not _is_unnamed_tpu(os.environ):
            raise PeerLostError(f"{missing} ({_first_line(error)})") from error
        # A TPU with nobody to ask, as in a notebook; call_roll finds out if there are other hosts.
        logger.warning("nothing tells of other hosts (%s): going on with this one", _first_line(error))
        ctypes.CDLL(None).signal(int(signal.SIGABRT), None)  # as it was; Python's own does it in its main thread alone
        _is_alone = True
        return
    _exit_on_abort(
        "aborted: another process is lost, unless the lines above say otherwise; run the same command again, with all "
        "of them"
    )
    if jax.process_count() > 1:
        _name_in_logs()


@contextlib.contextmanager
def joined(*, heartbeat_timeout_seconds: int = 60, **same: str) -> Iterator[None]:
    """A block that all processes go through together, in which a lost one is named; see ``start`` and ``call_roll``."""
    start(heartbeat_timeout_seconds=heartbeat_timeout_seconds)
    log_devices()
    with explained_loss(call_roll(**same)):
        yield


def cluster(environment: Any) -> dict[str, Any] | None:
    """What to tell jax of the other processes: None for none, {} where it finds them itself."""
    if any(name in environment for name in (COORDINATOR, COUNT, INDEX)):
        given = ", ".join(f"{name}={environment.get(name)}" for name in (COORDINATOR, COUNT, INDEX))
        host, _, port = environment.get(COORDINATOR, "").rpartition(":")
        try:
            count, index = int(environment[COUNT]), int(environment[INDEX])
        except (KeyError, ValueError) as error:
            raise InputError(f"{given}: set all three, the last two to whole numbers, or none") from error
        if not (host and port.isdecimal()):
            raise InputError(f"{given}: the first must be HOST:PORT of the first process")
        if not 0 <= index < count:
            raise InputError(f"{INDEX}={index} must be between 0 and {count - 1}, for {COUNT}={count}")
        return {
            "coordinator_address": environment[COORDINATOR],
            "num_processes": count,
            "process_id": index,
            "cluster_detection_method": "deactivate",
        }
    if all(name in environment for name in SLURM):
        return {} if int(environment["SLURM_NTASKS"]) > 1 else None
    workers = _gke_workers(environment)
    if workers is not None:
        slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
        return {} if len(workers.split(",")) * slices > 1 else None
    return {} if _is_unnamed_tpu(environment) else None


def _gke_workers(environment: Any) -> str | None:
    return environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")


def _is_unnamed_tpu(environment: Any) -> bool:
    """Whether this is a TPU VM, where a metadata server and not the environment tells of others."""
    if all(name in environment for name in SLURM) or _gke_workers(environment) is not None:
        return False
    if environment.get("JAX_FORCE_TPU_INIT"):
        return "TPU_SKIP_MDS_QUERY" not in environment
    wanted = "tpu" in (environment.get("JAX_PLATFORMS") or "tpu")  # a second command, on the CPU, is alone
    return wanted and accelerator_extra() == "tpu" and "TPU_SKIP_MDS_QUERY" not in environment


def call_roll(**same: str) -> list[Host]:
    """A row for each process, of which the first logs the table; with one process there is nothing to log.

    ``same`` are texts that have to be equal in all, such as the config: see ``check_same``. InputError, naming the
    process, where one or a version differs, or where devices of processes are seen that never joined.
    """
    count = jax.process_count()
    seen = {device.process_index for device in jax.devices()}
    if len(seen) > count:
        raise InputError(
            f"the devices of {len(seen)} processes are seen, but {count} joined: start the same command on every host, "
            f"and set {COORDINATOR}, {COUNT} and {INDEX} where they don't find each other"
        )
    local = jax.local_devices()
    mine = Host(
        process=jax.process_index(),
        name=socket.gethostname(),
        address=_own_address(),
        pid=os.getpid(),
        devices=f"{len(local)} x {local[0].device_kind}",
        versions=f"marble {marble.__version__}, jax {jax.__version__}, jaxlib {jaxlib.__version__}",
    )
    if count == 1:
        return [mine]
    table = [Host(*json.loads(text)) for text in gathered(json.dumps(mine))]
    if is_first():
        logger.info("%d processes, %d devices:", count, jax.device_count())
        for host in table:
            logger.info("  %3d  %-24s %-16s pid %-8d %s, %s", *host)
    for what, value in {"versions": mine.versions, **same}.items():
        check_same(what, value)
    return table


@contextlib.contextmanager
def explained_loss(table: Sequence[Host]) -> Iterator[None]:
    """Turns what a runtime raises when a process is gone into a PeerLostError that names it where it can."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the second where a program could not be started
        if len(table) == 1 or isinstance(error, InputError) or not LOST.search(str(error)):
            raise
        raise PeerLostError(
            f"lost {lost_host(str(error), table)} ({_first_line(error)}): run the same command again, with all of them"
        ) from error


def lost_host(message: str, table: Sequence[Host]) -> str:
    """Who is meant by a runtime's message, as far as an address in it tells."""
    found = [
        h for h in table if h.process != jax.process_index() and re.search(rf"\b{re.escape(h.address)}\b", message)
    ]
    if len(found) == 1:
        return f"process {found[0].process} on {found[0].name}"
    among = f", one of {', '.join(str(host.process) for host in found)}" if found else ""
    return f"another process{among}"


def _exit_on_abort(message: str) -> None:
    """From now on an abort says this and ends the process with EXIT_RESTART.

    Where no call fails by itself, as no collective does on TPU and NCCL, it is the coordination service that misses a
    process: it says so from C++ and aborts, and the signal's handler is the only way back to Python.
    """

    def handle(_: int) -> None:
        os.write(2, f"marble: {message}\n".encode())
        os._exit(EXIT_RESTART)

    _abort_handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handle))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _abort_handlers[-1])


_is_alone = False
"""Whether others were looked for, and nobody told of any."""
_abort_handlers: list[Any] = []
"""C keeps no reference to them."""


def _check_free(port: int) -> None:
    """InputError where another program listens at this port: gRPC would share it, and mix the processes of two runs."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise InputError(f"port {port} of {COORDINATOR} is in use ({error.strerror}): choose another") from error


def _name_in_logs() -> None:
    """Every line of the log says whose it is."""
    width = len(str(jax.process_count() - 1))
    form = f"%(asctime)s [{jax.process_index():{width}d}/{jax.process_count()}] %(message)s"
    for handler in logging.getLogger("marble").handlers:
        handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))


def _own_address() -> str:
    """The address by which this host would reach another one; no packet is sent."""
    target = os.environ.get(COORDINATOR, "192.0.2.1:1").rpartition(":")[0].strip("[]")
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 1))
        return probe.getsockname()[0]
    return "unknown"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
