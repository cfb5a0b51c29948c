"""The autoencoder's loss, and the one train step and state with it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import assert_same_run, metrics

from marble import builders, run, vae
from marble.config import load_config
from marble.objectives.vae import VariationalAutoencoder, vae_loss_fn
from marble.parallel import ParallelConfig
from marble.pipelines import VAESamplingConfig
from marble.training.optimizer import adam, warmup_decay
from marble.training.state import TrainState
from marble.training.step import make_train_step
from marble.typing import ImageSpec

OPTIMIZER = adam(warmup_decay(1e-2, 3))
OBJECTIVE = VariationalAutoencoder(
    model=None, likelihood=vae.DISCRETISED_LOGISTIC, image=ImageSpec((4, 4, 1), 17), sampling=VAESamplingConfig()
)
KEY = jax.random.key(3, impl="threefry2x32")
LEVELS = 17


class Linear(nn.Module):
    """Probabilistic PCA's two halves."""

    def setup(self):
        self.down, self.up = nn.Dense(2), nn.Dense(16)
        self.log_scale = self.param("log_scale", nn.initializers.zeros, (1, 1, 1, 1))

    def encode(self, x, *, train):
        mean = self.down(x.reshape(x.shape[0], -1))
        return mean, jnp.full_like(mean, -1.0)

    def decode(self, z, *, train):
        mean = self.up(z).reshape(-1, 4, 4, 1)
        return mean, jnp.broadcast_to(self.log_scale, mean.shape)

    def __call__(self, x):
        return self.decode(self.encode(x, train=False)[0], train=False)


def batch_of(size, step=0):
    rng = np.random.default_rng(step)
    image = (2 * rng.integers(0, LEVELS, (size, 4, 4, 1)) / (LEVELS - 1) - 1).astype(np.float32)
    return {"image": image, "index": np.arange(size, dtype=np.int32)}


def state_of():
    params = Linear().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    return TrainState.create(params, OPTIMIZER, sums=OBJECTIVE.sums())


def loss_fn_of(likelihood=vae.DISCRETISED_LOGISTIC):
    return vae_loss_fn(Linear(), likelihood, LEVELS)


def step_of(**options):
    return jax.jit(make_train_step(loss_fn_of(), OPTIMIZER, ema_decay=0.9, **options))


def steps(step, state, count, put=lambda batch: batch):
    for k in range(count):
        state, _ = step(state, put(batch_of(16, k)), KEY)
    return state


def assert_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_the_loss_is_in_expectation_the_gaussian_bound_in_closed_form():
    params, batch = state_of().params, batch_of(3)
    loss = jax.jit(lambda key: loss_fn_of(vae.GAUSSIAN)(params, batch, key)[0])
    draws = jax.lax.map(loss, jax.random.split(KEY, 4000), batch_size=500)
    x, width = batch["image"].reshape(3, 16).astype(np.float64), 2 / (LEVELS - 1)
    down, up = (
        {name: np.asarray(value, np.float64) for name, value in params[half].items()} for half in ("down", "up")
    )
    mean, variance = x @ down["kernel"] + down["bias"], np.exp(-1.0)
    # E|x - decoded|² is that of the mean plus the latent's variance times |up|²; the scale is 1.
    error = ((x - mean @ up["kernel"] - up["bias"]) ** 2).sum(1) + variance * (up["kernel"] ** 2).sum()
    log_likelihood = -0.5 * (error + 16 * width**2 / 12) + 16 * (np.log(width) - 0.5 * np.log(2 * np.pi))
    kl = 0.5 * (mean**2 + variance - 1 + 1.0).sum(1)
    expected = (kl - log_likelihood).mean() / (16 * math.log(2))
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(len(draws)) + 1e-5
    assert draws.std() > 1e-3


def test_the_metrics_add_up_to_the_loss_and_masked_images_do_not_count():
    params, batch = state_of().params, batch_of(8)
    loss_fn = jax.jit(loss_fn_of())
    loss, sums = loss_fn(params, batch, KEY)
    assert int(sums["count"]) == 8
    np.testing.assert_allclose((sums["reconstruction"] + sums["kl"]) / 8, loss, rtol=1e-6)
    np.testing.assert_allclose(OBJECTIVE.loss_and_count(sums), (8 * loss, 8), rtol=1e-6)
    mask = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    masked, alone = (
        loss_fn(params, b, KEY)[1] for b in ({**batch, "mask": mask}, {k: v[:5] for k, v in batch.items()})
    )
    assert_close(masked, alone, rtol=1e-5)


def test_one_device_eight_and_micro_batches_make_the_same_steps():
    mapping = ParallelConfig().open()
    alone = steps(step_of(), state_of(), 3)
    spread = steps(step_of(), mapping.place(state_of()), 3, mapping.put)
    assert len(spread.params["up"]["kernel"].sharding.device_set) == 8
    assert_close(alone.params, spread.params, atol=2e-6)
    assert_close(alone.params, steps(step_of(accumulate=4), state_of(), 3).params, atol=2e-6)


def test_the_loss_falls_and_the_window_says_of_what():
    state = steps(step_of(), state_of(), 1)
    first = OBJECTIVE.log(state.window)
    np.testing.assert_allclose(sum(first.values()), state.window["loss"], rtol=1e-5)
    step = step_of()
    for _ in range(100):
        state, last = step(state, batch_of(16), KEY)
    assert last["loss"] < 0.9 * sum(first.values()) and int(state.window["count"]) == 16 * 101
    assert set(first) == {"reconstruction", "kl"}


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_the_one_that_was_not_stopped(tmp_path):
    config = builders.complete(load_config("digits_vae:smoke"))
    config.training.sample_every = 0
    for name, lengths in (("whole", [4]), ("resumed", [2, 4])):
        for config.training.num_steps in lengths:
            run.run(config, str(tmp_path / name))
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    line = metrics(tmp_path / "whole")[0]
    assert list(line) == ["step", "loss", "reconstruction", "kl", "grad_norm", "learning_rate"]
    np.testing.assert_allclose(line["reconstruction"] + line["kl"], line["loss"], rtol=1e-5)
