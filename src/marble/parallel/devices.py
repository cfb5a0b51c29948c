"""Which devices there are, and whether they are the ones a user expects."""

import contextlib
import functools
import glob
import logging
import os
import re
import subprocess
import zlib
from collections.abc import Iterator
from platform import machine

import jax

from marble.errors import RunError
from marble.storage import check_reachable, expanded

logger = logging.getLogger(__name__)


def log_devices() -> None:
    """The first line of every run: what it runs on; and a warning when an accelerator is there but not used."""
    devices = jax.local_devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    logger.info("running on %d x %s (%s), jax %s", len(devices), kinds, jax.default_backend(), jax.__version__)
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return
    extra = accelerator_extra()
    if extra:
        what = "a TPU" if extra == "tpu" else "an NVIDIA GPU"
        logger.warning("%s is present but jax does not see it: install marble-diffusion[%s]", what, extra)


def accelerator_extra() -> str | None:
    """The extra that serves this machine's accelerator, by the rules of ``accelerator_extra`` in launch/environment.sh.

    The newest CUDA that an NVIDIA driver serves decides between cuda12 and cuda13.
    """
    smi = _nvidia_smi()
    if smi is not None:
        return "cuda12" if re.search(r"CUDA Version: 1[0-2]\b", smi) else "cuda13"
    if glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*") or os.environ.get("TPU_NAME"):
        return "tpu"
    return None


def _nvidia_smi() -> str | None:
    """What nvidia-smi prints; None where it is not there or fails, as it does without a driver."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@functools.cache
def compiler_options(*, gradients: bool, platform: str | None = None) -> dict[str, str]:
    """Options for ``jax.jit`` where XLA's defaults are not the best, for programs that no other program contains.

    On the CPU XLA gives convolutions, products and sums to YNNPACK, whose convolutions of few channels are slower than
    Eigen's: so it gets products and sums only in programs with ``gradients``, and nothing in others. What that gains
    is in benchmarks/results/beside_diffusers-cpu.md. platform is by default that of this process.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE" if gradients else ""
    options = {"xla_cpu_experimental_ynn_fusion_type": kinds}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another XLA, which has no such option
        return {}
    return options


def use_compilation_cache() -> None:
    """Keeps compiled programs for the next time, in the ``compilation_cache``.

    They are found by their text, the versions and the device.
    """
    cache = compilation_cache()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR", "~").startswith("~"):  # jax reads it, and takes a ~ for a folder
        jax.config.update("jax_compilation_cache_dir", cache)


def compilation_cache() -> str | None:
    """The folder or bucket $JAX_COMPILATION_CACHE_DIR, None where that is empty; where it is not set, in ~/.cache.

    InputError for a bucket that this program can't reach.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = expanded(os.environ.get("JAX_COMPILATION_CACHE_DIR", os.path.join(home, "marble", "xla", _machine())))
    check_reachable("JAX_COMPILATION_CACHE_DIR", cache)
    return cache or None


def _machine() -> str:
    """A name of this machine's instructions: jax does not tell one CPU from another, which may share a home."""
    flags = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    return f"{machine()}-{zlib.crc32(flags.encode()):08x}"


@contextlib.contextmanager
def explained_memory_error() -> Iterator[None]:
    """Turns an accelerator's out-of-memory error into a RunError that says what to lower."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            "out of memory: to train, raise training.accumulate (less memory, as many steps), set model.remat=True or "
            "model.dtype=bfloat16 in a new workdir, or lower training.batch_size; to sample, lower --batch_size"
        ) from error
