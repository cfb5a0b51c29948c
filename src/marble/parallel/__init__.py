"""How arrays are laid out over devices."""

from marble.parallel.mesh import data_mesh, data_parallel, put_batch, replicated

__all__ = ["data_mesh", "data_parallel", "put_batch", "replicated"]
