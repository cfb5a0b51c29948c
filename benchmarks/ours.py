"""marble's side: what ``marble train`` and a pipeline run, of the networks that are measured."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops
from marble import builders
from marble.config import load_config
from marble.parallel import compiler_options
from marble.pipelines import DiffusionPipeline
from marble.run import make_train_step_of
from marble.training.step import several_steps
from marble.typing import ImageSpec

NETWORKS = {"cifar10": ImageSpec((32, 32, 3), 256), "digits": ImageSpec((8, 8, 1), 17)}
"""The configs whose networks are measured, and their images."""
TINY = dict(channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4, attention_resolutions=())
"""A network that compiles in seconds."""


class Training(NamedTuple):
    """A compiled call of the train step, and what it takes."""

    call: Callable[[], Any]
    """Makes ``steps_per_call`` steps, and gives a metric to wait for."""
    compiled: Any
    compile_seconds: float
    mapping: Any


def experiment(
    dtype: str,
    batch_size: int,
    smoke: bool,
    network: str = "cifar10",
    shape: Sequence[int] | None = None,
    **model: Any,
) -> Any:
    """The config with this precision and batch size, keys of its model and images of this shape; tiny with smoke."""
    config = builders.complete(load_config(f"{network}:smoke" if smoke else network))
    config.model.dtype, config.training.batch_size, config.training.eval_every = dtype, batch_size, 0
    config.sampling.batch_size = batch_size
    config.model.update({**(TINY if smoke else {}), **model})
    spec = NETWORKS[network]
    return builders.build(config, spec if shape is None else ImageSpec(tuple(shape), spec.levels))


def training(
    dtype: str, batch_size: int, steps_per_call: int, smoke: bool, network: str = "cifar10", **model: Any
) -> Training:
    """The train step on one device, compiled as ``marble train`` compiles it, on batches as its loader gives them."""
    built = experiment(dtype, batch_size, smoke, network, **model)
    mapping = built.parallel.open(tuple(jax.devices()[:1]))
    state, key = mapping.init(built.init_state), jax.random.key(1, impl="threefry2x32")
    batches = mapping.put_part(random_rows(steps_per_call, batch_size, network), batch_axis=1)
    step = several_steps(make_train_step_of(built, mapping), mapping.scan)
    began = time.perf_counter()
    compiled = mapping.compile_step(step, state, batches, key)
    compile_seconds = time.perf_counter() - began

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, batches, key)
        return metrics["loss"]

    return Training(call, compiled, compile_seconds, mapping)


class Forward(NamedTuple):
    """A compiled call of the network alone."""

    call: Callable[[], Any]
    compiled: Any
    flops: float | None
    """Of a call."""


def forward(dtype: str, batch_size: int, smoke: bool, network: str = "cifar10", **model: Any) -> Forward:
    """The network, its parameters in the precision that it computes in, as a pipeline of it has them."""
    built = experiment(dtype, batch_size, smoke, network, **model)
    net, spec = built.objective.model, NETWORKS[network]
    x_t, t = network_inputs(batch_size, spec.shape)
    x_t, t = jnp.asarray(x_t, dtype), jnp.asarray(t)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), jax.jit(built.init_params)())

    def answer(params: Any, x_t: Any, t: Any) -> Any:
        return net.apply({"params": params}, x_t, t)

    program = jax.jit(answer, compiler_options=compiler_options(gradients=False))
    compiled = program.lower(params, x_t, t).compile()
    counted = flops.of_call(compiled, answer, *jax.eval_shape(lambda *of: of, params, x_t, t))
    return Forward(lambda: jax.block_until_ready(compiled(params, x_t, t)), compiled, counted)


def pipeline(
    dtype: str,
    batch_size: int,
    smoke: bool,
    network: str = "cifar10",
    shape: Sequence[int] | None = None,
    **model: Any,
) -> DiffusionPipeline:
    """Of random weights on one device: what is drawn does not change how long it takes."""
    built = experiment(dtype, batch_size, smoke, network, shape, **model)
    return built.pipeline(jax.jit(built.init_params)(), mapping=built.parallel.open(tuple(jax.devices()[:1])))


def count(built: Any) -> int:
    """The parameters of an experiment's network."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(built.init_params)))


def flops_of_an_image(smoke: bool, network: str = "cifar10", *, train: bool = True) -> float | None:
    """Operations of a training step, or of the loss alone, for one image; None where the CPU's compiler is silent."""
    few = 2
    built = experiment("float32", few, smoke, network)
    loss_fn = built.loss_fn(train=True)
    rows = random_rows(1, few, network)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    key = jax.eval_shape(lambda: jax.random.key(1, impl="threefry2x32"))

    def loss(*of_step: Any) -> Any:
        return loss_fn(*of_step)[0]

    function = jax.grad(loss) if train else loss
    found = flops.before_compiling(function, jax.eval_shape(built.init_params), batch, key)
    return found and found / few


def random_rows(steps_per_call: int, batch_size: int, network: str = "cifar10") -> dict[str, np.ndarray]:
    """Batches of noise, as the loader gives them."""
    shape, spec = (steps_per_call, batch_size), NETWORKS[network]
    return {
        "image": np.random.default_rng(0).integers(0, spec.levels, (*shape, *spec.shape), np.uint8),
        "index": np.broadcast_to(np.arange(batch_size, dtype=np.int32), shape),
        "label": np.zeros(shape, np.int32),
    }


def network_inputs(batch_size: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """x_t [b h w c] and t [b]."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch_size, *shape), np.float32), rng.integers(0, 1000, batch_size)


def peak_memory() -> int | None:
    """The most bytes of the device that were in use at once in this process; None where it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
