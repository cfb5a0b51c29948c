"""What a figure is of: the devices of this machine, and the versions."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "diffusers"),
    *("denoising-diffusion-pytorch", "jax-cuda13-plugin"),
)


def about() -> dict[str, Any]:
    """The devices, the driver, the versions, and how busy the machine is as this begins."""
    import jax

    first = jax.devices()[0]
    return {
        "device": f"{processor()}, {os.cpu_count()} cores" if first.platform == "cpu" else first.device_kind,
        "platform": first.platform,
        "count": jax.device_count(),
        "memory": (first.memory_stats() or {}).get("bytes_limit"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "driver": driver(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in LIBRARIES},
    }


def about_in_a_child() -> dict[str, Any]:
    """The same, asked in another process: a TPU belongs to the one that has opened it."""
    ask = "import json; from benchmarks.machine import about; print(json.dumps(about()))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def version(name: str) -> str | None:
    """Of a distribution; None where it is not installed."""
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
