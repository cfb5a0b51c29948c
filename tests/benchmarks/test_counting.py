"""Operations, memory and peaks, beside what they have to be."""

import mmap

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops, memory, ours, peaks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_of_matrices_is_two_mnk_operations(dtype):
    m, n, k = 24, 40, 56
    shapes = jax.ShapeDtypeStruct((m, k), dtype), jax.ShapeDtypeStruct((k, n), dtype)
    compiled = jax.jit(jnp.matmul).lower(*shapes).compile()
    # What the CPU turns into float32 on the way, and back, counts as an operation a number.
    turned = 0 if dtype == "float32" else 2 * (m * k + k * n + m * n)
    assert 0 <= flops.of_call(compiled, jnp.matmul, *shapes) - 2 * m * n * k <= turned
    assert flops.before_compiling(jnp.matmul, *shapes) == 2 * m * n * k


def test_a_convolution_has_two_operations_for_each_weight_and_place():
    """Valid, so that no place is outside."""
    x, w = jax.ShapeDtypeStruct((2, 10, 10, 8), "float32"), jax.ShapeDtypeStruct((3, 3, 8, 16), "float32")

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert flops.of_program(jax.jit(convolve).lower(x, w).compile()) == 2 * (2 * 8 * 8) * (3 * 3 * 8) * 16


def test_a_program_that_the_compiler_counts_nothing_of_has_none():
    assert flops.of_program(jax.jit(lambda x: x).lower(jnp.zeros(3))) is None


@pytest.mark.slow
def test_a_training_step_has_three_times_the_operations_of_the_forward_pass():
    """The gradient of a layer is two products of its size: by its input and by its weights; but by no image."""
    forward = ours.forward("float32", 2, True, "digits", dropout=0.0)
    trained = ours.training("float32", 2, 1, True, "digits", dropout=0.0)
    assert 2.5 < flops.of_program(trained.compiled) / forward.flops < 4.0
    loss, gradient = (ours.flops_of_an_image(True, "digits", train=train) for train in (False, True))
    assert 2.5 < gradient / loss < 3.3
    assert forward.flops / 2 == pytest.approx(loss, rel=0.2)


def test_the_networks_of_both_configs_are_the_published_sizes():
    assert ours.count(ours.experiment("float32", 1, False, "cifar10")) == 35_746_307
    assert ours.count(ours.experiment("float32", 1, False, "digits")) == 367_129


def touch(count):
    """That many bytes of new pages, which no allocator has kept, written and given back."""
    if count:
        with mmap.mmap(-1, count) as pages:
            pages[::4096] = bytes(len(range(0, count, 4096)))


def test_the_peak_of_a_call_is_what_it_touched():
    if not memory.is_told():
        pytest.skip("this system does not tell of a process's peak")
    probe, size = memory.PeakMemory(), 64 * 2**20
    for name, count in (("small", size // 4), ("large", size), ("none", 0)):
        probe.begin(name)
        touch(count)
        probe.end(name)
    for name, count in (("small", size // 4), ("large", size)):
        assert count * 0.95 <= probe.found[name] <= count + 8 * 2**20
    assert probe.found["none"] < 8 * 2**20


def test_a_peak_is_the_most_of_several_calls():
    if not memory.is_told():
        pytest.skip("this system does not tell of a process's peak")
    probe = memory.PeakMemory()
    for count in (48 * 2**20, 1):
        probe.begin("a")
        touch(count)
        probe.end("a")
    assert probe.found["a"] >= 45 * 2**20


def test_a_program_needs_its_arguments_and_its_result():
    program = jax.jit(lambda x, y: x @ y).lower(jnp.zeros((64, 32)), jnp.zeros((32, 16))).compile()
    least = 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert least <= memory.program_bytes(program) <= 3 * least


def test_the_matrix_peak_counts_what_it_does(monkeypatch):
    """With a clock by which a call takes a millisecond."""
    monkeypatch.setattr(peaks, "median_seconds", lambda call: call().block_until_ready() is None or 1e-3)
    assert peaks.matrix_peak("float32", 32) == pytest.approx(peaks.PRODUCTS * 2 * 32**3 * 1e3)


def test_bandwidth_counts_two_reads_and_a_write(monkeypatch):
    monkeypatch.setattr(peaks, "median_seconds", lambda call: 1e-3)
    assert peaks.bandwidth(1000) == pytest.approx(3 * 4000 * 1e3)
