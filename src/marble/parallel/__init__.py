"""How arrays are laid out over devices."""

from marble.parallel.devices import compiler_options, explained_memory_error, log_devices
from marble.parallel.mesh import check_divides, data_mesh, data_parallel, put_batch, replicated

__all__ = [
    "check_divides",
    "compiler_options",
    "data_mesh",
    "data_parallel",
    "explained_memory_error",
    "log_devices",
    "put_batch",
    "replicated",
]
