"""The device mesh: one axis, over which the images of a batch are split. Parameters are on every device."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from marble.errors import InputError
from marble.typing import Array


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of these devices (default: all) with the one axis ``data``."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def data_parallel(mesh: Mesh, *, batch_axis: int = 0) -> NamedSharding:
    """An array whose batch axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, "data"))


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray], *, batch_axis: int = 0) -> dict[str, Array]:
    """This process's part of a batch, as global arrays split over the mesh."""
    sharding = data_parallel(mesh, batch_axis=batch_axis)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def check_divides(name: str, size: int, mesh: Mesh) -> None:
    """InputError unless size images split evenly over the mesh's devices."""
    count = mesh.devices.size
    if size % count:
        fitting = max(count, size // count * count)
        raise InputError(f"{name}={size} does not divide over {count} devices: use {fitting} or {fitting + count}")
