"""Which devices there are, and whether they are the ones a user expects."""

import contextlib
import functools
import glob
import logging
import os
import shutil
from collections.abc import Iterator

import jax

from marble.errors import RunError

logger = logging.getLogger(__name__)


def log_devices() -> None:
    """The first line of every run: what it runs on; and a warning when an accelerator is there but not used."""
    devices = jax.local_devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    logger.info("running on %d x %s (%s), jax %s", len(devices), kinds, jax.default_backend(), jax.__version__)
    unused = idle_accelerator()
    if unused and jax.default_backend() == "cpu" and os.environ.get("JAX_PLATFORMS") != "cpu":
        logger.warning("%s is present but jax does not see it: install marble[%s]", *unused)


def idle_accelerator() -> tuple[str, str] | None:
    """(what, the extra that serves it) for an accelerator that the operating system shows."""
    if shutil.which("nvidia-smi") or glob.glob("/dev/nvidia[0-9]*"):
        return "an NVIDIA GPU", "cuda13"
    if glob.glob("/dev/accel[0-9]*") or os.environ.get("TPU_NAME"):
        return "a TPU", "tpu"
    return None


@functools.cache
def compiler_options(*, gradients: bool) -> dict[str, str]:
    """Options for ``jax.jit`` where XLA's defaults are not the best, for programs that no other program contains.

    On the CPU XLA gives convolutions, products and sums to YNNPACK, whose convolutions of few channels are slower than
    Eigen's: so it gets products and sums only in programs with ``gradients``, and nothing in others. What that gains
    is in benchmarks/results/unet_vs_diffusers-cpu.md.
    """
    if jax.default_backend() != "cpu":
        return {}
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE" if gradients else ""
    options = {"xla_cpu_experimental_ynn_fusion_type": kinds}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another XLA, which has no such option
        return {}
    return options


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
