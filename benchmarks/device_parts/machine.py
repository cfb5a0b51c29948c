"""Devices, versions, and what the machine can do at most."""

import importlib.metadata
import platform
import subprocess

import jax
import jax.numpy as jnp

from device_parts.common import median_seconds

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "diffusers", "jax-cuda13-plugin")


def run(tell, seconds_left, smoke, out):
    first = jax.devices()[0]
    tell(
        device=first.device_kind,
        platform=first.platform,
        count=jax.device_count(),
        memory=(first.memory_stats() or {}).get("bytes_limit"),
        python=platform.python_version(),
        machine=platform.platform(),
        driver=driver(),
        versions={name: version(name) for name in LIBRARIES},
    )
    for dtype in ("bfloat16", "float32"):
        tell(peak_tflops=round(matrix_peak(dtype, 256 if smoke else 8192) / 1e12, 2), dtype=dtype)
    tell(gigabytes_per_second=round(bandwidth(2**20 if smoke else 2**28) / 1e9, 1))


def matrix_peak(dtype: str, size: int) -> float:
    """Operations a second of ten products of square matrices in one program, in jax's default precision."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32).astype(dtype)
    scale = jnp.asarray(size**-0.5, dtype)
    chained = jax.jit(lambda a: jax.lax.fori_loop(0, 10, lambda _, b: (a @ b) * scale, a))
    return 10 * 2 * size**3 / median_seconds(lambda: chained(a))


def bandwidth(count: int) -> float:
    """Bytes a second, read and written, of y = 2 x + y."""
    x, y = jnp.ones(count, jnp.float32), jnp.ones(count, jnp.float32)
    add = jax.jit(lambda x, y: 2 * x + y)
    return 3 * x.nbytes / median_seconds(lambda: add(x, y))


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """The name and driver of the GPU, from nvidia-smi."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
