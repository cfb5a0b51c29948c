"""Every word of the theory that a config can say trains two real steps of the digits."""

import dataclasses
import itertools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tables import rest_slow

from marble import builders, loading, run
from marble.config import load_config
from marble.data.loader import train_batches
from marble.diffusion import PredictionType
from marble.diffusion.process import VarianceType
from marble.objectives.diffusion import SCHEDULES, WEIGHTINGS
from marble.objectives.draws import TimestepSampling
from marble.parallel import ParallelConfig
from marble.pipelines import ImageSpec

STEPS, CONTINUOUS = {"num_train_timesteps": 10}, {}
TRUNCATED = {"weighting": "truncated_snr", "prediction_type": "v"}
BOUND = {"weighting": "elbo", "prediction_type": "v"}
EXPERIMENTS = {
    words["beta_schedule"]: (words, training)
    for words, training in (
        # the section diffusion, and what the section training says beside
        ({"beta_schedule": "linear", **STEPS, "prediction_type": "eps", "weighting": "simple"}, {}),
        ({"beta_schedule": "scaled_linear", **STEPS, "prediction_type": "x_0", "weighting": "elbo"}, {}),
        ({"beta_schedule": "quadratic", **STEPS, "prediction_type": "score", "weighting": "snr"}, {}),
        ({"beta_schedule": "constant", **STEPS, "variance_type": "learned"}, {"timestep_sampling": "importance"}),
        ({"beta_schedule": "jsd", **STEPS, "prediction_type": "v", "weighting": "min_snr"}, {}),
        ({"beta_schedule": "warmup10", **STEPS, "prediction_type": "posterior_mean", "weighting": "p2"}, {}),
        ({"beta_schedule": "warmup50", **STEPS, "weighting": "elbo", "variance_type": "fixed_large"}, {}),
        ({"beta_schedule": "squaredcos_cap_v2", **STEPS, "variance_type": "learned_range"}, {}),
        ({"beta_schedule": "sigmoid", **STEPS, "rescale_betas_zero_snr": True, **TRUNCATED}, {}),
        ({"beta_schedule": "cosine", "prediction_type": "v", "weighting": "sigmoid"}, {"self_conditioning": True}),
        ({"beta_schedule": "edm", "prediction_type": "edm", "weighting": "edm", "variance_type": "fixed_small"}, {}),
        ({"beta_schedule": "rectified_flow", "prediction_type": "flow"}, {"timestep_sampling": "low_discrepancy"}),
        ({"beta_schedule": "learned_linear", **BOUND}, {"timestep_sampling": "uniform"}),
        ({"beta_schedule": "learned_monotone", **BOUND, "features": 16}, {"timestep_sampling": "low_discrepancy"}),
    )
}


class Small(nn.Module):
    """What a U-Net takes and gives, in two convolutions: words are not about the network."""

    out_channels: int
    reads_x_0: bool
    num_classes: None = None

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        if self.reads_x_0:
            x_t = jnp.concatenate([x_t, (context or {}).get("x_0", jnp.zeros_like(x_t))], axis=-1)
        h = nn.swish(nn.Conv(4, (3, 3))(x_t) + nn.Dense(4)(t[:, None] / 1000)[:, None, None])
        return nn.Conv(self.out_channels, (3, 3))(h)


def config_of(diffusion, training):
    config = load_config("digits:smoke").to_dict()
    config["model"].update(channels=8, channel_mult=(1,))
    config["sampling"]["num_steps"] = 4
    return ConfigDict({**config, "diffusion": diffusion, "training": {**config["training"], **training}})


def said(key):
    return {section.get(key) for section in itertools.chain(*EXPERIMENTS.values())}


def test_every_word_is_in_some_experiment():
    for key, words in (
        ("beta_schedule", SCHEDULES),
        ("weighting", WEIGHTINGS),
        ("prediction_type", get_args(PredictionType)),
        ("variance_type", get_args(VarianceType)),
        ("timestep_sampling", get_args(TimestepSampling)),
    ):
        assert set(words) <= said(key)


@pytest.mark.parametrize("name", rest_slow(EXPERIMENTS, "constant", "cosine", "learned_monotone"))
def test_two_real_steps(name):
    diffusion, training = EXPERIMENTS[name]
    config = builders.complete(config_of(diffusion, training))
    source = builders.data_config(config).open()
    experiment = builders.build(config, ImageSpec(tuple(source.image_shape), source.levels))
    objective = experiment.objective
    model = Small(objective.model.out_channels, objective.model.reads_x_0)
    experiment = dataclasses.replace(experiment, objective=dataclasses.replace(objective, model=model))
    mapping = ParallelConfig().open()
    run.check(experiment, source, mapping)
    state = jax.jit(experiment.init_state)()
    before = state.params
    step = jax.jit(run.make_train_step_of(experiment, mapping))
    for batch in itertools.islice(train_batches(source.read("train"), batch_size=8, seed=0), 2):
        state, metrics = step(state, batch, jax.random.key(0))
    assert int(state.step) == 2 and not state.diverged and metrics["loss"] > 0
    changed = jax.tree.map(lambda old, new: not np.array_equal(old, new), before, state.params)
    assert all(jax.tree.leaves(changed))
    assert ("log_snr" in changed) == objective.learns_schedule
    if training.get("timestep_sampling") == "importance":
        assert int(state.loss_history.counts.sum()) == 16


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 9, 13])
def test_a_run_goes_from_words_to_images(number, tmp_path):
    config = builders.complete(config_of(*EXPERIMENTS[number]))
    state = run.run(config, str(tmp_path / "run"))
    assert int(state.step) == 2 and not state.diverged
    images = loading.load(str(tmp_path / "run")).sample(3)
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8 and images.std() > 0
