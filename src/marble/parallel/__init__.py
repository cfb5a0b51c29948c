"""Devices and processes: how arrays are laid out over them, and how functions are mapped."""

from marble.parallel.devices import compiler_options, explained_memory_error, log_devices, use_compilation_cache
from marble.parallel.mapping import (
    WHOLE,
    Across,
    DeviceMapping,
    MeshMapping,
    ParallelConfig,
    PmapMapping,
    check_divides,
    fetch,
)
from marble.parallel.precision import in_32_bits, in_bits_of_params

__all__ = [
    "WHOLE",
    "Across",
    "DeviceMapping",
    "MeshMapping",
    "ParallelConfig",
    "PmapMapping",
    "check_divides",
    "compiler_options",
    "explained_memory_error",
    "fetch",
    "in_32_bits",
    "in_bits_of_params",
    "log_devices",
    "use_compilation_cache",
]
