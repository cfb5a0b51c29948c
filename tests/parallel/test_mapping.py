"""One program under every mapping: the same losses, gradients, parameters and images as on one device."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import rest_slow

from marble.conditioning import Identity
from marble.diffusion import linear
from marble.errors import InputError
from marble.models import UNet
from marble.objectives.denoising import diffusion_loss_fn
from marble.objectives.draws import empty_sums
from marble.parallel import ParallelConfig, check_divides, fetch
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.sampling import Ancestral
from marble.training.optimizer import adam, warmup_decay
from marble.training.state import TrainState
from marble.training.step import make_train_step, several_steps

KEY = jax.random.key(3, impl="threefry2x32")
BATCH, STEPS, SHAPE = 16, 50, (4, 4, 1)
FSDP = ParallelConfig(sharding="fsdp", fsdp_min_size=64)
MAPPINGS = {
    "mesh of 2": (ParallelConfig(), 2),
    "mesh of 4": (ParallelConfig(), 4),
    "mesh of 8": (ParallelConfig(), 8),
    "fsdp": (FSDP, 8),
    "pmap": (ParallelConfig(mapping="pmap"), 8),
}


def model_of(dtype=jnp.float32):
    return UNet(
        channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(4,),
        num_groups=4,
        dropout=0.0,
        out_channels=1,
        dtype=dtype,
    )


OPTIMIZER = adam(warmup_decay(1e-3, 5))


def host_batch(k):
    rng = np.random.default_rng(k)
    image = rng.uniform(-1, 1, (BATCH, *SHAPE)).astype(np.float32)
    return {"image": image, "index": np.arange(BATCH, dtype=np.int32)}


def make_state(dtype=jnp.float32):
    params = model_of(dtype).init(jax.random.key(0), jnp.zeros((1, *SHAPE), dtype), jnp.zeros(1))["params"]
    # A last layer of zeros would leave all gradients but its own at 0.
    params = jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape, p.dtype), params)
    return TrainState.create(jax.tree.map(lambda p: p.astype(dtype), params), OPTIMIZER, sums=empty_sums())


@functools.cache
def first_state(dtype=jnp.float32):
    """Made once, for that takes longer than fifty steps."""
    return jax.device_get(jax.jit(functools.partial(make_state, dtype))())


class Run(NamedTuple):
    losses: np.ndarray
    first_moment: Any
    """Adam's, after the first step: the gradient, clipped, times 1 - b1."""
    before: TrainState
    after: TrainState


def train(config, count, *, steps=STEPS, dtype=jnp.float32, accumulate=1, init=None):
    """A run under a mapping over count devices."""
    mapping = config.open(jax.devices()[:count])
    loss_fn = diffusion_loss_fn(model_of(dtype), linear(100))
    step = several_steps(
        make_train_step(
            loss_fn, OPTIMIZER, ema_decay=0.9, accumulate=accumulate, averaged=mapping.averaged, scan=mapping.scan
        ),
        mapping.scan,
    )
    state = mapping.place(first_state(dtype) if init is None else init)
    before, losses = fetch(state), []

    def put(k):
        batch = {name: np.asarray(value)[None] for name, value in host_batch(k).items()}
        batch["image"] = batch["image"].astype(dtype)
        return mapping.put_part(batch, batch_axis=1)

    compiled = mapping.compile_step(step, state, put(0), KEY)
    for k in range(steps):
        state, metrics = compiled(state, put(k), KEY)
        losses.append(float(metrics["loss"]))
        if k == 0:
            moment = fetch(optax.tree.get(state.opt_state, "mu"))
    return Run(np.array(losses), moment, before, fetch(state))


@pytest.fixture(scope="module")
def alone():
    return train(ParallelConfig(), 1)


def norm(tree):
    return float(optax.tree.norm(jax.tree.map(jnp.asarray, tree)))


def difference(one, other):
    return jax.tree.map(np.subtract, one, other)


@pytest.mark.slow  # in short in training/test_step.py, and of pmap in objectives/test_clip.py
@pytest.mark.parametrize("name", MAPPINGS)
def test_fifty_steps_are_those_of_one_device(alone, name):
    run = train(*MAPPINGS[name])
    np.testing.assert_allclose(run.losses, alone.losses, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, run.before, alone.before)
    assert norm(difference(run.first_moment, alone.first_moment)) <= 1e-5 * norm(alone.first_moment)
    moved = norm(difference(alone.after.params, alone.before.params))
    assert norm(difference(run.after.params, alone.after.params)) <= 1e-3 * moved
    assert norm(difference(run.after.ema_params, alone.after.ema_params)) <= 1e-3 * moved
    assert int(run.after.step) == STEPS and not run.after.diverged


@pytest.fixture(scope="module")
def alone_in_float64():
    with jax.enable_x64(True):
        return train(ParallelConfig(), 1, dtype=jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "mesh of 8", "pmap"])
def test_in_float64_they_are_equal_to_nine_digits(alone_in_float64, name, x64):
    alone, run = alone_in_float64, train(*MAPPINGS[name], dtype=jnp.float64)
    assert alone.after.params["conv_in"]["kernel"].dtype == np.float64
    np.testing.assert_allclose(run.losses, alone.losses, rtol=1e-9)
    moved = norm(difference(alone.after.params, alone.before.params))
    assert norm(difference(run.after.params, alone.after.params)) <= 1e-9 * moved


@pytest.mark.slow
@pytest.mark.parametrize("config", [ParallelConfig(mapping="pmap"), FSDP], ids=["pmap", "fsdp"])
def test_micro_batches_are_averaged_too(alone, config):
    run = train(config, 4, steps=5, accumulate=2)
    np.testing.assert_allclose(run.losses, alone.losses[:5], rtol=1e-5)


@pytest.mark.slow
def test_a_state_goes_on_under_another_mapping(alone):
    """A checkpoint knows no mapping: half of the steps under each of two, on other numbers of devices."""
    halfway = train(FSDP, 8, steps=5).after
    run = train(ParallelConfig(mapping="pmap"), 4, steps=1, init=halfway)
    expected = train(ParallelConfig(), 1, steps=1, init=halfway)
    np.testing.assert_allclose(run.losses, expected.losses, rtol=1e-5)
    assert not np.allclose(run.losses, alone.losses[0], rtol=1e-5)


def test_each_device_has_an_eighth_of_a_sharded_state_and_the_small_arrays():
    mapping = FSDP.open()
    state = mapping.init(make_state)
    leaves = jax.tree.leaves(state)
    small = sum(leaf.nbytes for leaf in leaves if leaf.size < 64)
    whole = sum(leaf.nbytes for leaf in leaves)
    for device in jax.devices():
        held = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards if shard.device == device)
        assert held <= whole / 8 + small
    assert small < 0.1 * whole
    jax.tree.map(np.testing.assert_array_equal, fetch(state), first_state())


def test_the_paths_say_what_is_split():
    mapping = ParallelConfig(sharding="fsdp", fsdp_paths=("kernel$",), fsdp_min_size=1).open()
    layout = mapping.layout(
        {"kernel": np.zeros((3, 3, 8, 16)), "bias": np.zeros(16), "odd": {"kernel": np.zeros((3, 5))}}
    )
    assert tuple(layout["kernel"].spec) == (None, None, None, "data")
    assert not tuple(layout["bias"].spec) and not tuple(layout["odd"]["kernel"].spec)


@pytest.mark.parametrize("name", rest_slow(MAPPINGS, "fsdp", "pmap"))
def test_images_are_those_of_one_device(name):
    def images(config, count):
        pipe = DiffusionPipeline(
            model=model_of(),
            params=first_state().params,
            schedule=linear(8),
            codec=Identity(ImageSpec(SHAPE, 256)),
            sampler=Ancestral("fixed_small"),
            config=SamplingConfig(batch_size=16),
            mapping=config.open(jax.devices()[:count]),
        )
        return pipe.sample(20, seed=3, num_frames=2, as_float=True)

    (one, frames), (other, other_frames) = images(ParallelConfig(), 1), images(*MAPPINGS[name])
    assert one.shape == (20, *SHAPE) and frames.x.shape == (2, 20, *SHAPE)
    np.testing.assert_allclose(other, one, atol=1e-4)
    np.testing.assert_allclose(other_frames.x, frames.x, atol=1e-4)


@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_sums_are_over_the_whole_batch(name):
    mapping = ParallelConfig(mapping=name).open()
    sums = mapping.compile_sums(lambda params, batch, extra: {"sum": params * batch["x"].sum() + extra * 0})
    assert sums(mapping.place(np.float32(2)), mapping.put({"x": np.arange(16.0)}), np.float32(1))["sum"] == 240


@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_a_batch_is_split_in_order(name):
    mapping = ParallelConfig(mapping=name).open()
    for batch in (mapping.put({"x": np.arange(16)}), mapping.put_part({"x": np.arange(16)})):
        shards = [shard.data.ravel().tolist() for shard in batch["x"].addressable_shards]
        assert shards == [[2 * i, 2 * i + 1] for i in range(8)]
    rows = mapping.compile_rows(lambda params, batch: (batch["x"], batch["x"][None]), out_axes=(0, 1))
    for found in rows(mapping.place({}), mapping.put({"x": np.arange(16)})):
        np.testing.assert_array_equal(found.ravel(), np.arange(16))


def test_the_batch_axis_can_be_the_second():
    batch = ParallelConfig().open().put_part({"x": np.zeros((3, 16))}, batch_axis=1)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(3, 2)}


def test_an_uneven_batch_names_sizes_that_fit():
    mapping = ParallelConfig().open()
    with pytest.raises(InputError, match=r"training.batch_size=20 .* 8 devices: use 16 or 24"):
        check_divides("training.batch_size", 20, mapping)
    with pytest.raises(InputError, match="use 8 or 16"):
        check_divides("training.batch_size", 3, mapping)
    check_divides("training.batch_size", 24, mapping)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mapping": "pmap", "sharding": "fsdp"}, "needs parallel.mapping='mesh'"),
        ({"fsdp_paths": ("(",)}, "give regular expressions"),
        ({"heartbeat_timeout_seconds": 1}, "heartbeat_timeout_seconds=1 must be at least 5"),
        ({"hang_seconds": -1.0}, "hang_seconds=-1.0 must be at least 0"),
    ],
)
def test_what_can_not_be_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        ParallelConfig(**words)
