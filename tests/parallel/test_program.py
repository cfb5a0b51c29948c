"""What the compiler says of a program, against what is known of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from marble.parallel import ParallelConfig, chips, program
from marble.parallel.mapping import scan_on, unrolled
from marble.parallel.program import device_memory, figures_of, shard_bytes

DEVICES = jax.devices()


@pytest.fixture
def lowered():
    """[64 1024] x [1024 32], the rows on eight devices, then the sum of all of them."""
    mapping = ParallelConfig().open(DEVICES)
    x = jax.ShapeDtypeStruct((64, 1024), jnp.float32, sharding=mapping.batch_sharding())
    w = jax.ShapeDtypeStruct((1024, 32), jnp.float32, sharding=mapping.everywhere)
    return jax.jit(lambda x, w: (x @ w).sum(axis=0), out_shardings=mapping.everywhere).lower(x, w)


def test_a_matrix_product(lowered):
    found = figures_of(lowered, DEVICES)
    assert found.arguments == 4 * (8 * 1024 + 1024 * 32) and found.outputs == 4 * 32
    assert found.flops == pytest.approx(2 * 8 * 1024 * 32, rel=0.01)
    assert found.collectives == {"all-reduce": 4 * 32}
    assert found.memory == found.arguments + found.outputs + found.temporaries + found.code


def test_a_loop_of_products_counts_each_of_them():
    def run(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=6)[0]

    found = figures_of(jax.jit(run).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)), DEVICES[:1])
    assert found.flops == pytest.approx(6 * 2 * 64**3, rel=0.02)


def test_what_was_found_is_kept(lowered, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    first = figures_of(lowered, DEVICES, cache)
    (file,) = (tmp_path / "cache" / "plan").iterdir()
    assert json.loads(file.read_text()) == first._asdict()
    monkeypatch.setattr(program, "_compiled", None)
    assert figures_of(lowered, DEVICES, cache) == first
    for other in (DEVICES[:4], DEVICES[::-1]):
        with pytest.raises(TypeError):
            figures_of(lowered, other, cache)
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(TypeError):
        figures_of(lowered, DEVICES, cache)


def test_what_can_not_be_kept_is_told_all_the_same(lowered, caplog):
    found = figures_of(lowered, DEVICES, "/proc/nothing")
    assert found == figures_of(lowered, DEVICES) and "is not kept in /proc/nothing/plan" in caplog.text


class TooLarge:
    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_program_that_is_too_large_is_no_fault_of_ours():
    said = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, (46.96G) exceeds (15.75G).\nmore"
    found = program._compiled(TooLarge(said))
    assert found.memory is None and found.fault == "Ran out of memory on HBM, (46.96G) exceeds (15.75G)."
    with pytest.raises(jax.errors.JaxRuntimeError):
        program._compiled(TooLarge("INTERNAL: something else"))


def test_the_part_of_one_device():
    mapping = ParallelConfig().open(DEVICES)
    split = NamedSharding(mapping.mesh, PartitionSpec(None, "data"))
    shapes = {"a": ((3, 16), jnp.float32, split), "b": ((5,), jnp.int8, mapping.everywhere)}
    shapes |= {"c": ((), jnp.bfloat16, mapping.everywhere)}
    tree = {name: jax.ShapeDtypeStruct(s, t, sharding=where) for name, (s, t, where) in shapes.items()}
    assert shard_bytes(tree) == 3 * 2 * 4 + 5 + 2


class Device:
    def __init__(self, kind, platform="tpu"):
        self.device_kind, self.platform = kind, platform


@pytest.mark.parametrize(
    ("kind", "gigabytes", "teraflops"),
    [
        ("TPU v4", 32, 275),
        ("TPU v5 lite", 16, 197),
        ("TPU v5", 95, 459),
        ("TPU v6 lite", 32, 918),
        ("TPU7x", 96, 1153.5),
    ],
)
def test_the_names_that_libtpu_gives_its_devices_are_known(kind, gigabytes, teraflops):
    assert device_memory([Device(kind)]) == gigabytes * 2**30
    assert chips.peak_flops(kind) == teraflops * 1e12


def test_cpu_devices_share_the_machine():
    assert device_memory(DEVICES) * 8 == device_memory(DEVICES[:1]) > 2**28
    assert device_memory([Device("some new chip")]) is None


def test_the_loop_of_each_platform_is_the_same():
    assert scan_on("tpu") is scan_on("gpu") is jax.lax.scan
    assert (
        scan_on("cpu") is ParallelConfig().open(DEVICES).scan is ParallelConfig("pmap").open(DEVICES).scan is unrolled
    )
    step, xs = lambda c, x: (c + x["a"], {"b": c * x["a"]}), {"a": np.arange(5.0, dtype=np.float32)}
    jax.tree.map(np.testing.assert_array_equal, unrolled(step, 1.0, xs), jax.lax.scan(step, 1.0, xs))
