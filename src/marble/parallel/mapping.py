"""How pure functions run on many devices: the one place, chosen by the section ``parallel`` of a config.

``mesh`` compiles a function for the whole batch, and XLA splits it over a mesh of devices; parameters and optimiser
state are on every device, or split too. ``pmap`` compiles it for the part of one device, and what is meant over the
whole batch is averaged by name. Both take and give the same state, batches and results, so that nothing outside of
this file knows which it is, and a state saved under one goes on under the other.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from marble.errors import InputError
from marble.parallel.devices import compiler_options
from marble.parallel.precision import in_bits_of_params
from marble.parallel.sharding import spec_by_path
from marble.typing import Array, Batch

AXIS = "data"
"""The one axis of devices, over which the images of a batch are split."""

Gradient = Callable[..., tuple[tuple[Array, dict[str, Any]], Any]]
"""gradient(params, batch, ...) -> ((loss, metrics), grads): a mean over images, sums over images, a mean."""
Rows = Mapping[str, np.ndarray]
Scan = Callable[[Callable[[Any, Any], tuple[Any, Any]], Any, Any], tuple[Any, Any]]
"""scan(step, carry, xs) -> (carry, outputs), as ``jax.lax.scan``."""


class Across(NamedTuple):
    """What a loss asks of the whole batch within a program, which may be that of one device's part of it."""

    mean: Callable[[Any], Any] = lambda x: x
    """What is a mean over the part's images, as one over all."""
    gathered: Callable[[Array], Array] = lambda x: x
    """The rows [b ...] of all parts, in the order of the batch."""


def _gathered(x: Array) -> Array:
    return jax.lax.all_gather(x, AXIS, tiled=True)


WHOLE = Across()
"""Of a program for the whole batch."""


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """The section ``parallel`` of a config."""

    mapping: Literal["mesh", "pmap"] = "mesh"
    """How functions are mapped over devices: jit over a mesh, or pmap."""
    sharding: Literal["replicated", "fsdp"] = "replicated"
    """Parameters and optimiser state: on every device, or (mesh only) each a part, gathered where it is used."""
    fsdp_paths: tuple[str, ...] = (".*",)
    """Of fsdp: regular expressions; the arrays whose path has one of them are split, along their longest axis."""
    fsdp_min_size: int = 4096
    """Of fsdp: arrays with fewer numbers are on every device."""
    heartbeat_timeout_seconds: int = 60
    """How long a process may be silent until the others take it for lost."""
    hang_seconds: float = 600.0
    """After so long without a step the log says where the program stands; 0 is never."""

    def __post_init__(self) -> None:
        if self.mapping == "pmap" and self.sharding != "replicated":
            raise InputError(f"parallel.sharding={self.sharding!r} needs parallel.mapping='mesh': pmap only replicates")
        for name, least in {"heartbeat_timeout_seconds": 5, "hang_seconds": 0, "fsdp_min_size": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"parallel.{name}={getattr(self, name)} must be at least {least}")
        spec_by_path(self.fsdp_paths, self.fsdp_min_size, 1)

    def open(self, devices: Sequence[jax.Device] | None = None) -> "DeviceMapping":
        """The mapping over these devices (default: all, of every process)."""
        devices = tuple(jax.devices() if devices is None else devices)
        if self.mapping == "pmap":
            return PmapMapping(devices)
        rules = spec_by_path(self.fsdp_paths, self.fsdp_min_size, len(devices)) if self.sharding == "fsdp" else None
        return MeshMapping(devices, rules)


@dataclasses.dataclass(frozen=True)
class MeshMapping:
    """jit over a mesh of one axis."""

    across = WHOLE
    devices: tuple[jax.Device, ...]
    rules: Callable[[str, tuple[int, ...]], PartitionSpec] | None = None
    """The part of an array with that path and shape that a device has; None puts everything everywhere."""

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices, in the order that is best for their network."""
        return jax.make_mesh((len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices)

    @property
    def scan(self) -> Scan:
        """The loop over arrays that suits the devices."""
        return scan_on(self.devices[0].platform)

    @property
    def everywhere(self) -> NamedSharding:
        """The same array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def layout(self, tree: Any) -> Any:
        """The sharding of each array of a state, or of its parameters or gradients."""
        if self.rules is None:
            return jax.tree.map(lambda _: self.everywhere, tree)
        spec = lambda path, x: self.rules(jax.tree_util.keystr(path, simple=True, separator="/"), x.shape)  # noqa: E731
        return jax.tree_util.tree_map_with_path(lambda path, x: NamedSharding(self.mesh, spec(path, x)), tree)

    def shapes(self, init: Callable[[], Any]) -> Any:
        """The shapes of init() and their layout, without an array."""
        return self.shapes_of(jax.eval_shape(init))

    def shapes_of(self, tree: Any) -> Any:
        """The shapes of arrays, or of shapes, and the layout that ``place`` gives them."""
        shape = lambda x, sharding: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)  # noqa: E731
        return jax.tree.map(shape, tree, self.layout(tree))

    def init(self, init: Callable[[], Any]) -> Any:
        """init() on the devices, each making its own part."""
        return jax.jit(init, out_shardings=self.layout(jax.eval_shape(init)))()

    def place(self, tree: Any) -> Any:
        """NumPy arrays, the same in every process, on the devices; they own their memory, so that it can be donated."""
        put = lambda x, s: jnp.copy(jax.make_array_from_callback(np.shape(x), s, lambda i: np.asarray(x)[i]))  # noqa: E731
        return jax.tree.map(put, tree, self.layout(tree))

    def put(self, rows: Rows) -> Batch:
        """Rows that every process has whole, split over the devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return {k: jax.make_array_from_callback(v.shape, sharding, lambda i, v=v: v[i]) for k, v in rows.items()}

    def put_part(self, rows: Rows, *, batch_axis: int = 0) -> Batch:
        """The rows of which each process has its part, split over the devices."""
        sharding = self.batch_sharding(batch_axis)
        return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in rows.items()}

    def row_shapes(self, rows: Rows, *, batch_axis: int = 0) -> Batch:
        """The shapes of rows that every process has whole, as ``put`` splits them, or along another axis."""
        sharding = self.batch_sharding(batch_axis)
        return {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding) for k, v in rows.items()}

    def batch_sharding(self, batch_axis: int = 0) -> NamedSharding:
        """Of an array whose batch axis is split over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * batch_axis, AXIS))

    def averaged(self, gradient: Gradient) -> Gradient:
        """The gradient over the whole batch, for a program of this mapping."""
        if self.rules is None:
            return gradient

        def gathered(params: Any, batch: Batch, *rest: Any) -> Any:
            found, grads = gradient(self._whole(params), batch, *rest)
            return found, jax.lax.with_sharding_constraint(grads, self.layout(grads))

        return gathered

    def compile_step(self, step: Callable[..., Any], state: Any, batches: Batch, key: Array) -> Callable[..., Any]:
        """step(state, batches [n b ...], key) -> (state, metrics) compiled; it donates its state.

        The arguments may be shapes with shardings. What comes back also tells flops and memory.
        """
        return self.lower_step(step, state, batches, key).compile()

    def lower_step(self, step: Callable[..., Any], state: Any, batches: Batch, key: Array) -> jax.stages.Lowered:
        """What ``compile_step`` compiles."""
        layout = (self.layout(state), self.everywhere)
        options = compiler_options(gradients=True, platform=self.devices[0].platform)
        jitted = jax.jit(in_bits_of_params(step), donate_argnums=0, out_shardings=layout, compiler_options=options)
        return jitted.lower(state, batches, key)

    def compile_rows(self, function: Callable[..., Any], *, out_axes: Any = 0, static: Sequence[str] = ()) -> Any:
        """function(params, batch, ...) as a function that gives NumPy arrays, whole, in every process.

        Its results have the axes of images that out_axes says, a prefix of them. static names keywords that change the
        program.
        """
        del out_axes  # XLA knows where each image is
        compiled = self.jitted_rows(function, static)
        return lambda *arguments, **keywords: fetch(compiled(*arguments, **keywords))

    def jitted_rows(self, function: Callable[..., Any], static: Sequence[str] = ()) -> Any:
        """function(params, batch, ...) jitted, its results left on the devices."""

        def gathered(params: Any, *rest: Any, **keywords: Any) -> Any:
            return function(self._whole(params), *rest, **keywords)

        options = compiler_options(gradients=False, platform=self.devices[0].platform)
        return jax.jit(in_bits_of_params(gathered), static_argnames=static, compiler_options=options)

    def compile_sums(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """function(params, batch, ...) of sums over images, as one of the sums over the whole batch."""
        return self.compile_rows(function)

    def _whole(self, params: Any) -> Any:
        """Parameters gathered from where their parts are."""
        if self.rules is None:
            return params
        return jax.lax.with_sharding_constraint(params, jax.tree.map(lambda _: self.everywhere, params))


@dataclasses.dataclass(frozen=True)
class PmapMapping:
    """jax.pmap, with a named axis; each device has all parameters."""

    across = Across(lambda x: jax.lax.pmean(x, AXIS), _gathered)
    devices: tuple[jax.Device, ...]

    @property
    def scan(self) -> Scan:
        """The loop over arrays that suits the devices."""
        return scan_on(self.devices[0].platform)

    @functools.cached_property
    def _local(self) -> Mesh:
        """This process's devices: pmap's arrays are those of a process."""
        return Mesh(np.array([d for d in self.devices if d.process_index == jax.process_index()]), (AXIS,))

    def init(self, init: Callable[[], Any]) -> Any:
        """init() on every device."""
        return jax.jit(init, out_shardings=NamedSharding(self._local, PartitionSpec()))()

    def place(self, tree: Any) -> Any:
        """NumPy arrays on every device; they own their memory, so that it can be donated."""
        return jax.tree.map(jnp.copy, jax.device_put(tree, NamedSharding(self._local, PartitionSpec())))

    def put(self, rows: Rows) -> Batch:
        """Rows that every process has whole, split over the devices."""
        part = jax.process_index() if self._num_processes > 1 else 0
        return self.put_part({name: np.array_split(v, self._num_processes)[part] for name, v in rows.items()})

    def put_part(self, rows: Rows, *, batch_axis: int = 0) -> Batch:
        """The rows of which each process has its part, split over the devices."""
        sharding = NamedSharding(self._local, PartitionSpec(*[None] * batch_axis, AXIS))
        return {name: jax.device_put(self._split(value, batch_axis), sharding) for name, value in rows.items()}

    def averaged(self, gradient: Gradient) -> Gradient:
        """The gradient over the whole batch, for a program of this mapping."""

        def meaned(params: Any, batch: Batch, *rest: Any) -> Any:
            (loss, metrics), grads = gradient(params, batch, *rest)
            loss, grads = jax.lax.pmean((loss, grads), AXIS)
            return (loss, jax.lax.psum(metrics, AXIS)), grads

        return meaned

    def compile_step(self, step: Callable[..., Any], state: Any, batches: Batch, key: Array) -> Callable[..., Any]:
        """step(state, batches [n b ...], key) -> (state, metrics) compiled; it donates its state."""
        mapped = self._pmapped(step, in_axes=(None, 1, None), out_axes=None, donate_argnums=0)
        if self._num_processes > 1:
            return mapped  # it compiles when called, for it converts between a process's arrays and those of all
        return mapped.lower(state, batches, key).compile()

    def compile_rows(self, function: Callable[..., Any], *, out_axes: Any = 0, static: Sequence[str] = ()) -> Any:
        """function(params, batch, ...) as a function that gives NumPy arrays, whole, in every process.

        Its results have the axes of images that out_axes says, a prefix of them. static names keywords that change the
        program.
        """

        @functools.cache
        def program(count: int, **keywords: Any) -> Callable[..., Any]:
            in_axes = (None, 0, *[None] * count)
            return self._pmapped(functools.partial(function, **keywords), in_axes=in_axes, out_axes=out_axes)

        def run(params: Any, batch: Batch, *rest: Any, **keywords: Any) -> Any:
            found = jax.device_get(program(len(rest), **keywords)(params, batch, *rest))
            axes = jax.tree.map(lambda axis, part: jax.tree.map(lambda _: axis, part), out_axes, found)
            return jax.tree.map(self._joined, found, axes)

        return run

    def compile_sums(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """function(params, batch, ...) of sums over images, as one of the sums over the whole batch."""
        summed = lambda *arguments: jax.lax.psum(function(*arguments), AXIS)  # noqa: E731

        @functools.cache
        def program(count: int) -> Callable[..., Any]:
            return self._pmapped(summed, in_axes=(None, 0, *[None] * count), out_axes=None)

        return lambda params, batch, *rest: jax.device_get(program(len(rest))(params, batch, *rest))

    def _pmapped(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return jax.pmap(in_bits_of_params(function), AXIS, devices=self.devices, **options)

    @property
    def _num_processes(self) -> int:
        return len({device.process_index for device in self.devices})

    def _split(self, x: np.ndarray, axis: int) -> np.ndarray:
        """[... b ...] as [... devices b/devices ...]."""
        return x.reshape(*x.shape[:axis], self._local.size, -1, *x.shape[axis + 1 :])

    def _joined(self, x: np.ndarray, axis: int) -> np.ndarray:
        """A result [... devices b/devices ...] as [... b ...], with the parts of all processes."""
        mine = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        if self._num_processes == 1:
            return mine
        return np.concatenate(list(multihost_utils.process_allgather(mine)), axis=axis)


DeviceMapping = MeshMapping | PmapMapping


def scan_on(platform: str) -> Scan:
    """jax.lax.scan; on the CPU a Python loop, for XLA's gradients of convolutions are 15-90 times slower in a scan."""
    return unrolled if platform == "cpu" else jax.lax.scan


def unrolled(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
    """jax.lax.scan as a Python loop."""
    outputs = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, output = step(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        outputs.append(output)
    return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)


def fetch(tree: Any) -> Any:
    """Arrays of either mapping, whole, as NumPy arrays; all processes have to ask for what is split among them."""

    def whole(x: Any) -> Any:
        is_here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return x if is_here else multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


def check_divides(name: str, size: int, mapping: DeviceMapping) -> None:
    """InputError unless size images split evenly over the devices."""
    count = len(mapping.devices)
    if size % count:
        fitting = max(count, size // count * count)
        raise InputError(f"{name}={size} does not divide over {count} devices: use {fitting} or {fitting + count}")
