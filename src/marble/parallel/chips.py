"""What accelerators can do: peak arithmetic and memory, by the name that jax gives a device.

bfloat16 without sparsity, per device as jax counts them: of TPU v2, v3 and 7x a device is one of a chip's two cores.
From cloud.google.com/tpu/docs/system-architecture-tpu-vm, its pages v4, v5e, v5p, v6e and tpu7x, and NVIDIA's data
sheets. libtpu calls v5e "TPU v5 lite", v5p "TPU v5", v6e "TPU v6 lite".
"""

import re
from typing import NamedTuple


class Chip(NamedTuple):
    """One device."""

    flops: float
    """Multiplications and additions a second."""
    memory: float
    """Bytes."""


CHIPS = {
    r"TPU v2": Chip(22.5e12, 8 * 2**30),
    r"TPU v3": Chip(61.5e12, 16 * 2**30),
    r"TPU v4": Chip(275e12, 32 * 2**30),
    r"TPU v5 ?(lite|e)": Chip(197e12, 16 * 2**30),
    r"TPU v5p?": Chip(459e12, 95 * 2**30),
    r"TPU v6 ?(lite|e)": Chip(918e12, 32 * 2**30),
    r"TPU ?7x?": Chip(1153.5e12, 96 * 2**30),
    r"NVIDIA B200": Chip(2250e12, 180e9),
    r"NVIDIA H200": Chip(989e12, 141e9),
    r"NVIDIA H100 NVL": Chip(835e12, 94e9),
    r"NVIDIA H100 PCIe": Chip(756e12, 80e9),
    r"NVIDIA H100": Chip(989e12, 80e9),
    r"NVIDIA A100.*80": Chip(312e12, 80e9),
    r"NVIDIA A100": Chip(312e12, 40e9),
    r"NVIDIA L40S": Chip(362e12, 48e9),
    r"NVIDIA L4": Chip(121e12, 24e9),
    r"NVIDIA A10G": Chip(70e12, 24e9),
    r"(Tesla|NVIDIA) V100": Chip(125e12, 16e9),
    r"(Tesla|NVIDIA) T4": Chip(65e12, 16e9),
}


def chip(kind: str) -> Chip | None:
    """The device of this ``device_kind``; None for one that is not in the table, such as a CPU."""
    return next((found for name, found in CHIPS.items() if re.match(name, kind)), None)


def peak_flops(kind: str) -> float | None:
    """Its peak arithmetic, a second."""
    found = chip(kind)
    return found and found.flops
