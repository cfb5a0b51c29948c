"""Models of few steps on Gaussian data: trained by each objective, one step or four are the exact flow map."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian_flow import MEAN, STD, Known, flow_map

from marble import builders
from marble.conditioning import Identity
from marble.diffusion import read, rectified_flow
from marble.errors import InputError
from marble.objectives.consistency import neighbours
from marble.objectives.distilled import Distilled
from marble.parallel import ParallelConfig
from marble.sampling import karras_sigmas
from marble.typing import ImageSpec

IMAGE = ImageSpec((1, 1, 16), 256)
BATCH = 256


def config_of(objective, **distillation):
    return {
        "seed": 0,
        "objective": objective,
        "init_from": "teacher",
        "data": {"name": "digits"},
        "model": {"name": "unet", "channels": 8, "channel_mult": (1,), "num_groups": 4},
        "diffusion": {"beta_schedule": "rectified_flow", "prediction_type": "flow"},
        "distillation": distillation,
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {"batch_size": BATCH, "num_steps": 2000, "ema_decay": 0.99},
        "sampling": {"clip_sample": False, "batch_size": 64},
    }


def objective_of(name, **distillation):
    built = builders.build(config_of(name, **distillation), IMAGE).objective
    model = Known(reads_s=name == "mean_flow")
    return dataclasses.replace(built, model=model, codec=Identity(IMAGE))


def trained(objective: Distilled, teacher, *, start=None, num_steps=2000, seed=0):
    """The parameters after so many steps of Gaussian data, from those of the teacher or of a start."""
    loss_fn, frozen = objective.loss_fn(train=True), objective.frozen(teacher)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps, alpha=1e-2))

    def step(state, i):
        params, opt_state, history = state
        key = jax.random.fold_in(jax.random.key(seed), i)
        noise = jax.random.normal(key, (BATCH, *IMAGE.shape))
        batch = {"image": MEAN + STD * noise, "index": jnp.arange(BATCH)}
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key, history, frozen)
        updates, opt_state = optimizer.update(grads, opt_state)
        history = history if history is None else history.updated(**metrics["draws"])
        return (optax.apply_updates(params, updates), opt_state, history), loss

    start = teacher if start is None else start
    state = start, optimizer.init(start), objective.loss_history()
    (params, *_), losses = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(num_steps)))(state)
    return params, np.asarray(losses)


def error_of(objective, params, steps):
    """How far the images of given noise are from where the exact flow takes it, at most within two deviations."""
    pipe = objective.pipeline(params, mapping=ParallelConfig().open(tuple(jax.devices()[:1])))
    x = np.clip(np.random.default_rng(1).normal(size=(64, *IMAGE.shape)), -2, 2).astype(np.float32)
    found = pipe.sample(64, noise=x, steps=steps, as_float=True).reshape(64, -1)
    exact = flow_map(jnp.asarray(x).reshape(64, -1), jnp.ones(64), jnp.zeros(64))
    return float(jnp.abs(found - exact).max())


class Told(nn.Module):
    """A velocity that is the label: 1, 2, ..., and 0 for the null class, 5."""

    reads_s: bool = False
    num_classes: int = 5

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        label = (context or {}).get("label", jnp.full(len(x_t), 5))
        said = jnp.where(label == 5, 0.0, 1.0 + label)
        return self.param("scale", nn.initializers.ones, ()) * jnp.broadcast_to(said[:, None, None, None], x_t.shape)


@pytest.fixture(scope="module")
def teacher():
    """The exact velocity."""
    return objective_of("progressive", num_steps=1).init_params(jax.random.key(0))


def test_the_teacher_is_exact_in_many_steps_and_not_in_one(teacher):
    objective = objective_of("progressive", num_steps=1)
    assert error_of(objective, teacher, 512) < 5e-3
    assert error_of(objective, teacher, 1) > 0.2


@pytest.mark.slow
def test_halved_again_and_again_one_step_is_the_flow_map(teacher):
    params = teacher
    for steps in (64, 32, 16, 8, 4, 2, 1):
        objective = objective_of("progressive", num_steps=steps)
        params, _ = trained(objective, params, num_steps=400 if steps > 1 else 1500)
        if steps == 4:
            assert error_of(objective, params, 4) < 1e-2
    assert error_of(objective, params, 1) < 1e-2


def test_consistency_distillation_ends_at_the_flow_map(teacher):
    objective = objective_of("consistency", first_scales=8, last_scales=128)
    assert error_of(objective, teacher, 1) > 0.2
    params, _ = trained(objective, teacher)
    assert error_of(objective, params, 1) < 1e-2


@pytest.mark.slow
def test_consistency_training_comes_near_without_a_teacher(teacher):
    # A neighbour of the same noise is right in the mean alone, and the error's norm is no mean: what is left is a bias.
    objective = objective_of("consistency", teacher=False, first_scales=8, last_scales=128)
    params, _ = trained(objective, None, start=teacher, num_steps=3000)
    assert error_of(objective, params, 1) < 4e-2


@pytest.mark.slow
@pytest.mark.parametrize(("has_teacher", "num_steps"), [(True, 2000), (False, 4000)])
def test_mean_flow_is_the_flow_map_in_one_step_and_in_four(teacher, has_teacher, num_steps):
    objective = objective_of("mean_flow", teacher=has_teacher, span_share=0.75, loss_power=0.0)
    start = objective.init_params(jax.random.key(1))
    params, _ = trained(objective, teacher, start=start, num_steps=num_steps)
    assert error_of(objective, start, 1) > 0.2
    assert error_of(objective, params, 1) < 1.2e-2 and error_of(objective, params, 4) < 1.2e-2


def batch_of(size=4, **more):
    noise = np.random.default_rng(0).normal(size=(size, *IMAGE.shape))
    return {"image": jnp.asarray(MEAN + STD * noise, jnp.float32), "index": jnp.arange(size), **more}


def test_a_student_that_does_what_its_teacher_does_in_two_steps_has_no_loss(teacher):
    # Of the exact velocity in 512 steps two are as good as one; of 2 steps they are not.
    losses = []
    for steps in (256, 1):
        objective = objective_of("progressive", num_steps=steps)
        loss_fn, frozen = jax.jit(objective.loss_fn(train=True)), objective.frozen(teacher)
        losses.append(float(loss_fn(teacher, batch_of(64), jax.random.key(0), None, frozen)[0]))
    assert losses[0] < 1e-5 < 1e-3 < losses[1]


def test_the_loss_of_the_exact_mean_flow_is_nothing_where_there_is_no_span(teacher):
    objective = objective_of("mean_flow", teacher=True, span_share=0.0)
    params = objective.init_params(jax.random.key(1))
    loss_fn, frozen = jax.jit(objective.loss_fn(train=True)), objective.frozen(teacher)
    assert float(loss_fn(params, batch_of(16), jax.random.key(0), None, frozen)[0]) < 1e-9
    spans = dataclasses.replace(objective, words=dataclasses.replace(objective.words, span_share=1.0))
    loss_fn = jax.jit(spans.loss_fn(train=True))
    assert float(loss_fn(params, batch_of(16), jax.random.key(0), None, frozen)[0]) > 1e-2


def test_spans_are_as_many_as_asked_and_end_below_where_they_begin():
    objective = objective_of("mean_flow", span_share=0.25)
    place, other = jax.random.uniform(jax.random.key(0), (2, 4000))
    t, s = objective.spans(place, other, jax.random.split(jax.random.key(1), 4000))
    is_span = np.asarray(t != s)
    assert (np.asarray(s)[is_span] < np.asarray(t)[is_span]).all() and float(s.min()) >= 0
    assert abs(is_span.mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize("name", ["progressive", "consistency"])
def test_a_guided_teacher_goes_as_far_past_the_null_context_as_it_is_asked_to(name):
    words = {"num_steps": 2} if name == "progressive" else {}
    config = config_of(name, guidance_scale=3.0, **words)
    config["model"]["num_classes"] = 5
    config["training"]["label_dropout"] = 0.1
    objective = dataclasses.replace(builders.build(config, IMAGE).objective, model=Told(), codec=Identity(IMAGE))
    said = objective.teacher({"scale": jnp.ones(())}, objective.conditioner)
    level = jax.tree.map(lambda a: jnp.full(3, a), objective.schedule.level(jnp.asarray(0.5)))
    x, label = jnp.zeros((3, *IMAGE.shape)), jnp.array([0, 3, 5])
    found = read(said(x, level, {"label": label}), "flow", level=level)[:, 0, 0, 0]
    np.testing.assert_allclose(found, [3.0, 12.0, 0.0], atol=1e-5)  # 3 times the label's, for the null's is 0


def test_without_a_teacher_mean_flow_is_guided_away_from_its_own_null_context():
    config = config_of("mean_flow", guidance_scale=2.0)
    config["model"]["num_classes"] = 5
    config["training"]["label_dropout"] = 0.1
    objective = dataclasses.replace(builders.build(config, IMAGE).objective, model=Told(), codec=Identity(IMAGE))
    x_0, noise = jnp.zeros((3, *IMAGE.shape)), jnp.full((3, *IMAGE.shape), 0.7)
    apply = lambda x, t, context: Told().apply({"params": {"scale": jnp.ones(())}}, x, t, context)  # noqa: E731
    said = objective._own(apply, objective.conditioner, x_0, noise)
    level = jax.tree.map(lambda a: jnp.full(3, a), objective.schedule.level(jnp.asarray(0.5)))
    x_t = 0.5 * noise
    found = read(said(x_t, level, {"label": jnp.array([0, 1, 2])}), "flow", level=level)
    np.testing.assert_allclose(found, 1.4, atol=1e-5)  # 2 (noise - x_0) - 0


def test_neighbours_share_an_interval_of_the_grid_and_the_lowest_ends_at_the_data():
    schedule = rectified_flow()
    t = jnp.linspace(0.0, 0.999, 500)
    noisy, clean, is_data = neighbours(schedule, t, 16)
    noise = lambda level: np.asarray(level.sigma / level.alpha)  # noqa: E731
    at = noise(schedule.level(t))
    assert (noise(noisy) >= at * (1 - 1e-4)).all() and (noise(clean) <= at * (1 + 1e-4)).all()
    grid = np.sort(karras_sigmas(17, at[0], noise(schedule.level(jnp.asarray(1.0)))))
    place = np.searchsorted(grid, at * (1 + 1e-5), side="right") - 1
    np.testing.assert_array_equal(np.asarray(is_data), place == 0)
    np.testing.assert_allclose(noise(noisy), grid[place + 1], rtol=2e-3)


def test_a_mean_flow_of_fast_times_is_warned_of(caplog):
    config = config_of("mean_flow")
    builders.build(config, IMAGE)
    assert "time_scale=1000" in caplog.text
    caplog.clear()
    config["diffusion"]["time_scale"] = 10.0
    objective = builders.build(config, IMAGE).objective
    assert not caplog.text and objective.time_scale == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("progressive", {"distillation": {"num_steps": 0}}, "distillation.num_steps=0 must be at least 1"),
        ("progressive", {"diffusion": {"beta_schedule": "linear"}}, "prediction_type='eps'.* 'v' or 'x_0' or 'flow'"),
        ("consistency", {"distillation": {"first_scales": 9, "last_scales": 8}}, "first_scales=9 .* last_scales=8"),
        ("consistency", {"distillation": {"teacher": False, "guidance_scale": 2.0}}, "teacher=False is none"),
        ("consistency", {"distillation": {"guidance_scale": 2.0}}, "guidance_scale=2.0 needs"),
        ("mean_flow", {"diffusion": {"beta_schedule": "linear"}}, "beta_schedule='linear' is unknown"),
        ("mean_flow", {"distillation": {"span_share": 1.5}}, "span_share=1.5 must be between"),
        ("mean_flow", {"distillation": {"loss_power": -1.0}}, "loss_power=-1.0 must be between"),
        ("mean_flow", {"lora": {"rank": 2}}, "lora.rank is not for objective='mean_flow'"),
        ("mean_flow", {"model": {"name": "adm"}}, "told where a step ends: a AdmUNet is not"),
    ],
)
def test_words_that_do_not_go_together_are_refused(objective, changes, message):
    words = {"num_steps": 4} if objective == "progressive" else {}
    with pytest.raises(InputError, match=message):
        builders.build({**config_of(objective, **words), **changes}, IMAGE)


def test_a_grid_that_is_not_halved_is_refused():
    config = config_of("progressive", num_steps=4)
    config["sampling"]["timestep_spacing"] = "linspace"
    with pytest.raises(InputError, match="'trailing' alone"):
        builders.build(config, IMAGE).objective.check()
