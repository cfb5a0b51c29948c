"""How arrays are laid out over devices."""

from marble.parallel.devices import log_devices
from marble.parallel.mesh import check_divides, data_mesh, data_parallel, put_batch, replicated

__all__ = ["check_divides", "data_mesh", "data_parallel", "log_devices", "put_batch", "replicated"]
