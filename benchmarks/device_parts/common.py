"""What the parts share: the CIFAR-10 experiment as ``marble train`` builds it, and timing."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from marble import builders
from marble.config import load_config
from marble.run import make_train_step_of
from marble.training.step import several_steps
from marble.typing import ImageSpec

CIFAR10 = ImageSpec((32, 32, 3), 256)


class Training(NamedTuple):
    """A compiled call of the train step, and what it takes."""

    call: Callable[[], Any]
    """Makes ``steps_per_call`` steps, and gives a metric to wait for."""
    compiled: Any
    compile_seconds: float
    mapping: Any


def experiment(dtype: str, batch_size: int, smoke: bool, **model: Any) -> Any:
    """configs/cifar10.py with this precision and batch size, and keys of its model; tiny with smoke."""
    config = builders.complete(load_config("cifar10:smoke" if smoke else "cifar10"))
    config.model.dtype, config.training.batch_size, config.training.eval_every = dtype, batch_size, 0
    config.sampling.batch_size = batch_size
    if smoke:  # which compiles in seconds
        config.model.update(channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4, attention_resolutions=())
    config.model.update(model)
    return builders.build(config, CIFAR10)


def training(dtype: str, batch_size: int, steps_per_call: int, smoke: bool, **model: Any) -> Training:
    """The train step on one device, compiled as ``marble train`` compiles it, on batches as its loader gives them."""
    built = experiment(dtype, batch_size, smoke, **model)
    mapping = built.parallel.open(tuple(jax.devices()[:1]))
    state, key = mapping.init(built.init_state), jax.random.key(1, impl="threefry2x32")
    batches = mapping.put_part(random_rows(steps_per_call, batch_size), batch_axis=1)
    step = several_steps(make_train_step_of(built, mapping), mapping.scan)
    began = time.perf_counter()
    compiled = mapping.compile_step(step, state, batches, key)
    compile_seconds = time.perf_counter() - began

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, batches, key)
        return metrics["loss"]

    return Training(call, compiled, compile_seconds, mapping)


def flops_of_an_image(smoke: bool) -> float | None:
    """Operations of a training step for one image, counted in the program as jax hands it to the CPU's compiler.

    An accelerator's tells nothing before it has compiled, and a GPU's convolutions are then calls of a library. None
    where the CPU's tells nothing either.
    """
    few = 2
    built = experiment("float32", few, smoke)
    loss_fn = built.loss_fn(train=True)
    batch = jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), random_rows(1, few))
    key = jax.eval_shape(lambda: jax.random.key(1, impl="threefry2x32"))
    gradient = jax.grad(lambda *of_step: loss_fn(*of_step)[0])
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(gradient).lower(jax.eval_shape(built.init_params), batch, key)
        flops = (lowered.cost_analysis() or {}).get("flops")
    return flops and flops / few


def random_rows(steps_per_call: int, batch_size: int) -> dict[str, np.ndarray]:
    """Batches of noise, as the loader gives them."""
    shape = (steps_per_call, batch_size)
    return {
        "image": np.random.default_rng(0).integers(0, 256, (*shape, *CIFAR10.shape), np.uint8),
        "index": np.broadcast_to(np.arange(batch_size, dtype=np.int32), shape),
        "label": np.zeros(shape, np.int32),
    }


def median_seconds(call: Callable[[], Any], *, repeats: int = 5, calls: int = 1) -> float:
    """The median time of a call, of so many in a row; the first two rows are not counted."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / calls)
    return float(np.median(times[2:]))


def peak_memory() -> int | None:
    """The most bytes of the device that were in use at once in this process; None where it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
