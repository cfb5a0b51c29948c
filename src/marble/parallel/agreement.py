"""What several processes agree on: which of them writes, what the first has found, when all of them stop.

``is_first`` says which process writes; ``from_first`` tells all what the first has found; ``StopVote`` makes a request
to stop in one process stop all of them at one step. With one process all of this is nothing.
"""

import hashlib
import json
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from marble.errors import InputError, RestartError, RunError
from marble.storage import may_pass

VOTES_IN_FLIGHT = 2
"""How many calls later a vote is counted, so that the host does not wait for it."""
ROW_BYTES = 4096
KINDS = (InputError, RestartError, RunError)
"""Of errors, by their exit statuses."""
LONGEST = 64
"""Texts that are longer are compared, and named, by a digest."""


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def from_first(action: Callable[[], Any]) -> Any:
    """What action() gives in the first process, which alone calls it, in all: a value that JSON can hold.

    What it raises is raised in the first; the others raise one of marble's that ends them with the same exit status.
    """
    if jax.process_count() == 1:
        return action()
    told: dict[str, Any] = {}
    fault = None
    if is_first():
        try:
            told = {"value": action()}
            json.dumps(told)  # or the others would wait
        except Exception as error:  # of any kind, and raised below: the others wait to be told
            fault = error
            told = {"error": str(error) or repr(error), "kind": _kind(error).__name__}
    told = json.loads(_broadcast(json.dumps(told)))
    if fault is not None:
        raise fault
    if "error" in told:
        raise {kind.__name__: kind for kind in KINDS}[told["kind"]](told["error"])
    return told["value"]


def _kind(error: Exception) -> type[Exception]:
    if isinstance(error, InputError):
        return InputError
    return RestartError if isinstance(error, RestartError) or may_pass(error) else RunError


def check_same(what: str, value: str) -> None:
    """InputError, naming the process, unless this text is the same in all."""
    if jax.process_count() == 1:
        return
    shown = value if len(value) < LONGEST else hashlib.sha256(value.encode()).hexdigest()[:12]
    texts = [json.loads(text) for text in gathered(json.dumps([socket.gethostname(), shown]))]
    first_name, expected = texts[0]
    for process, (name, found) in enumerate(texts):
        if found != expected:
            raise InputError(
                f"process {process} on {name} has {what} {found}, but process 0 on {first_name} {expected}: start all "
                "of them with the same command, installation and data"
            )


def arrays_from_first(tree: Any, shapes: Any) -> Any:
    """A pytree of the first process's NumPy arrays, in all; the others give None, and all their shapes."""
    if jax.process_count() == 1:
        return tree
    mine = tree if is_first() else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    # A leaf at a time: each is on the devices twice while it is sent.
    return jax.tree.map(lambda x: np.asarray(multihost_utils.broadcast_one_to_all(x)), mine)


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def gathered(text: str) -> list[str]:
    """The text of every process, each at most ROW_BYTES long."""
    row = np.frombuffer(text.encode()[:ROW_BYTES].ljust(ROW_BYTES), np.uint8)
    return [bytes(each).decode().rstrip() for each in multihost_utils.process_allgather(row)]


class StopVote:
    """Whether any process was asked to stop: at the same call in all of them, for they count the same votes."""

    def __init__(self) -> None:
        self._cast: deque[jax.Array] = deque()
        mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec("all"))
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, asked: bool) -> bool:
        """Casts this process's vote, and counts the one of VOTES_IN_FLIGHT calls ago; alone it is its own answer."""
        if jax.process_count() == 1:
            return asked
        mine = np.full(jax.local_device_count(), asked, np.int32)
        self._cast.append(self._any(jax.make_array_from_process_local_data(self._sharding, mine)))
        return len(self._cast) > VOTES_IN_FLIGHT and bool(self._cast.popleft())


def _broadcast(text: str) -> str:
    """The first process's text."""
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.resize(data, size) if is_first() else np.zeros(size, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()
