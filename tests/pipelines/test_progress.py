"""Sampling that is watched: the same images, told of step by step."""

import time

import flax.linen as nn
import jax
import numpy as np
import pytest

from marble.conditioning import Identity
from marble.diffusion import linear
from marble.errors import InputError
from marble.parallel import ParallelConfig
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.pipelines.editing import edit, inpaint
from marble.pipelines.progress import OnStep
from marble.sampling import DDIM, Ancestral, dpm_solver_2m

SCHEDULE = linear(20, beta_start=0.005, beta_end=0.6)
VARIANCE = 0.04


class Gaussian(nn.Module):
    """eps of images whose pixels are N(0, VARIANCE)."""

    @nn.compact
    def __call__(self, x_t, t, context=None, *, train=False):
        level = SCHEDULE.level(t).like(x_t)
        return level.sigma / (level.alpha**2 * VARIANCE + level.sigma**2) * x_t


ONE, ALL = 1, 8


def pipeline(sampler, devices=ONE):
    return DiffusionPipeline(
        model=Gaussian(),
        params={},
        schedule=SCHEDULE,
        codec=Identity(ImageSpec((4, 4, 1), 256)),
        sampler=sampler,
        config=SamplingConfig(batch_size=8),
        mapping=ParallelConfig().open(jax.devices()[:devices]),  # one, for which two cores compile sooner
    )


@pytest.fixture(scope="module")
def pipe():
    return pipeline(Ancestral("fixed_large"))


IMAGES = np.random.default_rng(0).normal(0, 0.2, (12, 4, 4, 1)).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("sampler", "devices"),
    [
        (Ancestral("fixed_large"), ALL),
        (dpm_solver_2m(), ONE),
        pytest.param(DDIM(), ONE, marks=pytest.mark.slow),
    ],
    ids=["ancestral-8", "dpm_solver_2m-1", "ddim-1"],
)
def test_watched_images_are_the_same_and_what_is_shown_are_their_frames(sampler, devices):
    pipe, told = pipeline(sampler, devices), []
    watched = pipe.sample(12, seed=3, as_float=True, on_step=OnStep(told.append, 3))
    np.testing.assert_array_equal(watched, pipe.sample(12, seed=3, as_float=True))
    _, frames = pipe.sample(12, seed=3, num_frames=20)
    assert [step.done for step in told] == list(range(1, 41)) and {step.total for step in told} == {40}
    shown = [step for step in told if step.x is not None]
    steps = [3, 6, 9, 12, 15, 18, 20]  # each third, and the last, of both batches
    assert [step.done for step in shown] == [*steps, *(20 + i for i in steps)]
    for step in shown:
        images = slice(step.first, step.first + len(step.x))
        np.testing.assert_array_equal(step.x, frames.x[(step.done - 1) % 20, images])
        np.testing.assert_array_equal(step.x_0, frames.x_0[(step.done - 1) % 20, images])
    assert [(step.first, len(step.x)) for step in shown[-8:]] == [(0, 8), *[(8, 4)] * 7]


def test_other_numbers_of_steps_and_of_pictures_compile_nothing(pipe, monkeypatch):
    pipe.sample(3, on_step=OnStep(lambda step: None))
    traces, apply = [], pipe.apply
    monkeypatch.setattr(pipe, "apply", lambda *inputs: traces.append(inputs) or apply(*inputs))
    told = []
    pipe.sample(5, steps=7, seed=2, on_step=OnStep(told.append, 100))
    assert [step.x is not None for step in told] == [*[False] * 6, True]
    assert traces == []


def test_without_it_nothing_is_called_and_the_program_is_as_ever(pipe):
    plain = pipe.lower(pipe.mapping.shapes_of(pipe.params)).as_text()
    assert "callback" not in plain


class Stop(Exception):
    pass


def test_what_it_raises_ends_sampling_there(pipe):
    told = []

    def stop(step):
        told.append(step.done)
        if step.done == 4:
            raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        pipe.sample(12, on_step=OnStep(stop))
    assert told == [1, 2, 3, 4]
    np.testing.assert_array_equal(pipe.sample(12, on_step=OnStep(lambda step: None)), pipe.sample(12))


def test_a_network_that_is_not_asked_after_a_stop():
    calls = []

    class Counted(Gaussian):
        @nn.compact
        def __call__(self, x_t, t, context=None, *, train=False):
            jax.debug.callback(lambda: calls.append(time.sleep(0.05)))
            return Gaussian()(x_t, t)

    pipe = DiffusionPipeline(**{**pipeline(Ancestral("fixed_large"))._parts, "model": Counted()}, params={})
    pipe.sample(8)
    all_calls = len(calls)
    calls.clear()

    def stop(step):
        raise Stop("at once")

    with pytest.raises(Stop):
        pipe.sample(8, on_step=OnStep(stop))
    jax.effects_barrier()
    assert 1 <= len(calls) < all_calls / 2


def test_edits_are_watched_too(pipe):
    told, mask = [], np.eye(4, dtype=bool)
    watched = edit(pipe, IMAGES, 0.5, seed=1, as_float=True, on_step=OnStep(told.append, 4))
    np.testing.assert_array_equal(watched, edit(pipe, IMAGES, 0.5, seed=1, as_float=True))
    assert [step.done for step in told if step.x is not None] == [4, 8, 10, 14, 18, 20] and len(told) == 20
    told.clear()
    watched = inpaint(pipe, IMAGES, mask, seed=1, resamples=3, on_step=OnStep(told.append, 20))
    np.testing.assert_array_equal(watched, inpaint(pipe, IMAGES, mask, seed=1, resamples=3))
    assert len(told) == 40
    last = np.concatenate([step.x for step in told if step.x is not None])
    np.testing.assert_array_equal(last[:, mask], watched[:, mask])


def test_what_cannot_be_watched_is_refused(pipe):
    with pytest.raises(InputError, match="every=0 must be at least 1"):
        pipe.sample(1, on_step=OnStep(print, 0))
    mapping = ParallelConfig(mapping="pmap").open()
    mapped = DiffusionPipeline(**{**pipe._parts, "mapping": mapping}, params={})
    with pytest.raises(InputError, match="'pmap' makes 8: use mapping='mesh', or one device"):
        mapped.sample(1, on_step=OnStep(print))
