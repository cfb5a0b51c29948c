"""The train step against hand-made arithmetic, with a model small enough to check."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble import checkpoint
from marble.conditioning import Labels, Unconditional
from marble.data.preprocess import example_keys, prepare_batch
from marble.diffusion import linear
from marble.diffusion.timesteps import LossHistory
from marble.objectives.denoising import diffusion_loss_fn
from marble.objectives.draws import empty_sums
from marble.parallel import ParallelConfig
from marble.training.optimizer import adam, warmup_decay
from marble.training.state import TrainState
from marble.training.step import make_train_step, several_steps


class Tiny(nn.Module):
    """A convolution that knows t and the label."""

    num_classes: int | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        x = nn.Conv(4, (3, 3))(x_t) + jnp.sin(t / 100.0)[:, None, None, None]
        if self.num_classes is not None:
            x = x + nn.Embed(self.num_classes + 1, 4)(context["label"])[:, None, None, :]
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(x))
        return nn.Conv(x_t.shape[-1], (3, 3))(x)


OPTIMIZER = adam(warmup_decay(1e-2, 3))
KEY = jax.random.key(3, impl="threefry2x32")


def batch_of(size, step=0):
    rng = np.random.default_rng(step)
    image = rng.uniform(-1, 1, (size, 4, 4, 1)).astype(np.float32)
    return {
        "image": image,
        "index": np.arange(size, dtype=np.int32),
        "label": rng.integers(0, 3, size).astype(np.int32),
    }


def state_of(model):
    context = {"label": jnp.zeros(1, jnp.int32)}
    params = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), context)["params"]
    return TrainState.create(params, OPTIMIZER, sums=empty_sums())


def step_of(model, **options):
    conditioner = Labels(model.num_classes) if model.num_classes else Unconditional()
    loss_fn = diffusion_loss_fn(model, linear(100), conditioner=conditioner)
    return make_train_step(loss_fn, OPTIMIZER, ema_decay=0.9, **options)


def run(step, state, count, size=16):
    for k in range(count):
        state, metrics = step(state, batch_of(size, k), KEY)
    return state, metrics


def assert_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_the_loss_falls():
    step = jax.jit(step_of(Tiny()))
    state, first = step(state_of(Tiny()), batch_of(64), KEY)
    for _ in range(200):
        state, last = step(state, batch_of(64), KEY)
    assert last["loss"] < 0.7 * first["loss"]
    assert int(state.step) == 201


@pytest.mark.parametrize("count", [2, 8])
def test_micro_batches_make_the_same_step(count):
    whole, parts = (run(jax.jit(step_of(Tiny(3), accumulate=k)), state_of(Tiny(3)), 3)[0] for k in (1, count))
    assert_close(whole.params, parts.params, atol=2e-6)
    assert_close(whole.window, parts.window, rtol=1e-5)


def test_one_device_and_eight_make_the_same_steps():
    mapping = ParallelConfig().open()
    step = jax.jit(step_of(Tiny(3, dropout=0.5)))
    alone, metrics = run(step, state_of(Tiny(3)), 5)
    spread = mapping.place(state_of(Tiny(3)))
    for k in range(5):
        spread, spread_metrics = step(spread, mapping.put(batch_of(16, k)), KEY)
    assert len(spread.params["Conv_0"]["kernel"].sharding.device_set) == 8
    assert_close(alone.params, spread.params, atol=2e-6)
    np.testing.assert_allclose(metrics["loss"], spread_metrics["loss"], rtol=1e-5)


def test_several_steps_in_a_call_are_the_same_steps():
    single, _ = run(jax.jit(step_of(Tiny())), state_of(Tiny()), 6)
    stacked = [
        jax.tree.map(lambda *x: np.stack(x), *[batch_of(16, k) for k in part]) for part in ((0, 1, 2, 3), (4, 5))
    ]
    state, several = state_of(Tiny()), jax.jit(several_steps(step_of(Tiny())))
    for batches in stacked:
        state, _ = several(state, batches, KEY)
    assert_close(single, state, atol=2e-6)


def test_a_loss_that_is_not_finite_changes_nothing_ever_after():
    step = jax.jit(step_of(Tiny()))
    before, _ = run(step, state_of(Tiny()), 2)
    bad = {**batch_of(16), "image": batch_of(16)["image"].copy()}
    bad["image"][3, 0, 0, 0] = np.nan
    held, _ = step(before, bad, KEY)
    after, _ = step(held, batch_of(16), KEY)
    assert not before.diverged and held.diverged and after.diverged
    for state in (held, after):
        jax.tree.map(np.testing.assert_array_equal, before.replace(diverged=state.diverged), state)


def test_the_window_sums_what_the_metrics_say():
    step, state = jax.jit(step_of(Tiny())), state_of(Tiny())
    losses = []
    for k in range(3):
        state, metrics = step(state, batch_of(16, k), KEY)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(state.window["loss"], sum(losses), rtol=1e-6)
    np.testing.assert_allclose(state.window["loss_by_t"].sum(), 16 * sum(losses), rtol=1e-5)
    assert int(state.window["num_steps"]) == 3 and float(state.window["count_by_t"].sum()) == 48


def test_adam_with_clipping_and_warm_up_is_the_textbook_s():
    # Kingma & Ba 2015, algorithm 1, on gradients scaled to norm 1; the rate of update k is lr min(k / 3, 1).
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(5, 7)) * 10
    x, m, v = np.zeros(7), np.zeros(7), np.zeros(7)
    params, opt_state = jnp.zeros(7), OPTIMIZER.init(jnp.zeros(7))
    for k, grad in enumerate(grads):
        g = grad / max(1, np.linalg.norm(grad))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x -= 1e-2 * min(k / 3, 1) * (m / (1 - 0.9 ** (k + 1))) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
        updates, opt_state = OPTIMIZER.update(jnp.asarray(grad, jnp.float32), opt_state, params)
        params = params + updates
    np.testing.assert_allclose(params, x, rtol=1e-4)


def test_draws_belong_to_positions_in_the_global_batch():
    whole, half = (example_keys(KEY, {"index": jnp.asarray(index)}) for index in (np.arange(8), np.arange(4, 8)))
    np.testing.assert_array_equal(jax.random.key_data(whole)[4:], jax.random.key_data(half))


def test_flips_are_drawn_and_pixels_scaled():
    image = np.zeros((400, 1, 2, 1), np.uint8)
    image[:, 0, 1] = 16
    batch = {"image": image, "index": np.arange(400, dtype=np.int32)}
    prepared = prepare_batch(batch, KEY, levels=17, flips=True)["image"]
    flipped = np.asarray(prepared[:, 0, 0, 0] == 1)
    assert set(np.unique(prepared)) == {-1, 1} and 150 < flipped.sum() < 250
    np.testing.assert_array_equal(prepare_batch(batch, KEY, levels=17, flips=False)["image"][:, 0, 1, 0], 1)


def test_labels_are_dropped_at_their_rate():
    seen = []

    class Spy(Tiny):
        def __call__(self, x_t, t, context=None, *, train=False):
            seen.append(context["label"])
            return x_t

    loss_fn = diffusion_loss_fn(Spy(3), linear(100), conditioner=Labels(3, 0.25))
    batch = batch_of(2000)
    loss_fn({}, batch, KEY)
    dropped = np.asarray(seen[0] == 3)
    assert 0.2 < dropped.mean() < 0.3
    np.testing.assert_array_equal(np.asarray(seen[0])[~dropped], batch["label"][~dropped])


def test_masked_images_do_not_count():
    loss_fn = diffusion_loss_fn(Tiny(), linear(100), train=False)
    params, batch = state_of(Tiny()).params, batch_of(8)
    mask = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    part = {k: v[:5] for k, v in batch.items()}
    masked, alone = (loss_fn(params, b, KEY)[1] for b in ({**batch, "mask": mask}, part))
    assert_close(masked, alone, rtol=1e-5)


def importance_step(size=16, **options):
    loss_fn = diffusion_loss_fn(Tiny(), linear(4), timestep_sampling="importance", batch_size=size)
    return make_train_step(loss_fn, OPTIMIZER, ema_decay=0.9, **options)


def filled_state():
    """A state whose history is nearly full: the draws become uneven on the way."""
    rng = np.random.default_rng(0)
    losses = jnp.asarray(rng.exponential([[1.0], [2.0], [3.0], [9.0]], (4, 10)), jnp.float32)
    state = state_of(Tiny())
    return TrainState.create(
        state.params, OPTIMIZER, sums=empty_sums(), loss_history=LossHistory(losses, jnp.array([9, 10, 10, 10]))
    )


@pytest.mark.slow
def test_importance_remembers_the_same_however_the_batch_is_split():
    mapping = ParallelConfig().open()
    whole, _ = run(jax.jit(importance_step()), filled_state(), 4)
    parts, _ = run(jax.jit(importance_step(accumulate=4)), filled_state(), 4)
    step, spread = jax.jit(importance_step()), mapping.place(filled_state())
    for k in range(4):
        spread, _ = step(spread, mapping.put(batch_of(16, k)), KEY)
    batches = jax.tree.map(lambda *x: np.stack(x), *[batch_of(16, k) for k in range(4)])
    together, _ = jax.jit(several_steps(importance_step()))(filled_state(), batches, KEY)
    assert int(whole.loss_history.counts.sum()) == 39 + 64
    assert np.ptp(whole.loss_history.probabilities()) > 0.01
    for other in (parts, spread, together):
        np.testing.assert_array_equal(other.loss_history.counts, whole.loss_history.counts)
        assert_close(other.loss_history.losses, whole.loss_history.losses, rtol=1e-4, atol=1e-5)
        assert_close(other.params, whole.params, atol=1e-5)


@pytest.mark.parametrize("remembers", [True, False])
def test_a_saved_history_goes_on_bit_for_bit(remembers, tmp_path):
    step = jax.jit(importance_step() if remembers else step_of(Tiny()))
    state = filled_state() if remembers else state_of(Tiny())
    half, _ = run(step, state, 2)
    with checkpoint.CheckpointWriter(str(tmp_path)) as writer:
        writer.save(2, half)
    _, restored, _ = checkpoint.restore_newest(str(tmp_path), jax.eval_shape(lambda: state))
    whole, resumed = (run(step, start, 3)[0] for start in (half, jax.tree.map(jnp.asarray, restored)))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert (resumed.loss_history is not None) == remembers


def test_importance_weighted_losses_and_gradients_estimate_the_uniform_ones():
    # Over many images: the same mean of the loss, its gradient and its share of each quarter of t.
    loss_fn = diffusion_loss_fn(Tiny(), linear(4), timestep_sampling="importance", batch_size=40_000)
    params, batch, history = state_of(Tiny()).params, batch_of(40_000), filled_state().loss_history
    history = history._replace(counts=jnp.full(4, 10))
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (uniform, by_uniform), g = gradient(params, batch, KEY)
    (weighted, by_importance), g_weighted = gradient(params, batch, KEY, history)
    np.testing.assert_allclose(weighted, uniform, rtol=0.02)
    assert_close(g_weighted, g, atol=0.03)
    means = [sums["loss_by_t"] / sums["count_by_t"] for sums in (by_uniform, by_importance)]
    np.testing.assert_allclose(*means, rtol=0.02)
    counts = np.bincount(by_importance["draws"]["t"], minlength=4) / 40_000
    np.testing.assert_allclose(counts, history.probabilities(), atol=0.02)


def test_low_discrepancy_is_the_same_in_micro_batches_and_on_eight_devices():
    def step(**options):
        loss_fn = diffusion_loss_fn(Tiny(), linear(100), timestep_sampling="low_discrepancy", batch_size=16)
        return jax.jit(make_train_step(loss_fn, OPTIMIZER, ema_decay=0.9, **options))

    mapping = ParallelConfig().open()
    whole, parts = (run(step(accumulate=k), state_of(Tiny()), 2)[0] for k in (1, 2))
    spread = mapping.place(state_of(Tiny()))
    for k in range(2):
        spread, _ = step()(spread, mapping.put(batch_of(16, k)), KEY)
    for other in (parts, spread):
        assert_close(other.params, whole.params, atol=2e-6)
        assert_close(other.window, whole.window, rtol=1e-5)
    np.testing.assert_array_equal(whole.window["count_by_t"], 8)  # 16 images twice: 4 in each quarter, exactly


class Echo:
    """Guesses a fixed image, and notes what it was told."""

    num_classes = None

    def __init__(self):
        self.told = []

    def apply(self, variables, x_t, t, context, *, train, rngs):
        self.told.append((context or {}).get("x_0"))
        return jnp.full(x_t.shape, 3.0) * variables["params"]


def test_half_of_the_images_see_the_model_s_own_estimate():
    model = Echo()
    loss_fn = diffusion_loss_fn(model, linear(100), prediction_type="x_0", self_conditioning=True)
    batch = batch_of(400)
    gradient = jax.grad(lambda p: loss_fn(p, batch, KEY)[0])(jnp.ones(()))
    first, second = model.told
    assert first is None
    shown = np.asarray(second).reshape(400, -1)
    assert set(np.unique(shown)) == {0, 1}  # the estimate 3, cut to the range of images
    assert (np.ptp(shown, axis=1) == 0).all() and 150 < shown[:, 0].sum() < 250
    # Of mean((3 p - x_0)²): nothing comes back through the estimate.
    np.testing.assert_allclose(gradient, 6 * (3 - batch["image"]).mean(), rtol=1e-4)
