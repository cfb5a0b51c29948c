"""The page's values: what the pipeline makes of them, and what is refused."""

import numpy as np
import pytest

from marble.demo import requests
from marble.demo.limits import Limits
from marble.demo.model import OWN_SAMPLER, Model
from marble.demo.requests import Settings
from marble.errors import InputError
from marble.pipelines import AutoencoderPipeline, editing
from marble.pipelines.noising import noised

ASKED = Settings(label=1, num=3, steps=10, guidance_scale=2.0, seed=7)
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)


def how(**more):
    return dict(seed=7, steps=10, guidance_scale=2.0, labels="day", **more)


def test_they_are_the_pipeline_s_own_images(model):
    asked, pipe = requests.read(model, ASKED), model.pipe
    np.testing.assert_array_equal(requests.draw(model, asked, OWN_SAMPLER), pipe.sample(3, **how()))
    np.testing.assert_array_equal(requests.draw(model, asked, "euler"), pipe.sample(3, sampler="euler", **how()))
    images = np.repeat(IMAGE[None], 3, axis=0)
    np.testing.assert_array_equal(requests.vary(model, asked, IMAGE, 0.5), editing.edit(pipe, images, 0.5, **how()))
    mask = np.eye(8, dtype=bool)
    filled = requests.fill(model, asked, IMAGE, mask, 2)
    np.testing.assert_array_equal(filled, editing.inpaint(pipe, images, mask, resamples=2, **how()))
    np.testing.assert_array_equal(filled[:, ~mask], images[:, ~mask])
    said, found = requests.noise(model, asked, IMAGE, 0.5)
    assert said == "t = 10 of 19"
    np.testing.assert_array_equal(found.x_t, noised(pipe, IMAGE[None], 10, seed=7, labels="day").x_t)


def test_classes_are_what_they_are_called(model):
    assert model.classes == [("any", None), ("night", 0), ("day", 1)]
    dark, bright = (
        requests.draw(model, requests.read(model, Settings(label=label, num=4, steps=20)), None) for label in (0, 1)
    )
    assert abs(dark.mean() - 127.5 * 0.4) < 10 and abs(bright.mean() - 127.5 * 1.6) < 10


def test_no_settings_compile_anything(model, monkeypatch):
    requests.draw(model, requests.read(model, ASKED), None)
    traces, apply = [], model.pipe.apply
    monkeypatch.setattr(model.pipe, "apply", lambda *inputs: traces.append(inputs) or apply(*inputs))
    for other in (dict(num=1), dict(num=4, steps=20), dict(steps=1, seed=9), dict(label=None), dict(guidance_scale=0)):
        requests.draw(model, requests.read(model, ASKED._replace(**other)), None)
    assert traces == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(num=5), "the number of images is 5: give a whole number from 1 to 4"),
        (dict(num=0), "from 1 to 4"),
        (dict(num=1.5), "the number of images is 1.5"),
        (dict(num=True), "the number of images is True"),
        (dict(num="2"), "the number of images is 2: give a whole number"),
        (dict(num=None), "the number of images is None"),
        (dict(steps=21), "the number of steps is 21: give a whole number from 1 to 20"),
        (dict(steps=float("nan")), "the number of steps is nan"),
        (dict(steps=float("inf")), "the number of steps is inf"),
        (dict(seed=-1), "the seed is -1: give a whole number from 0 to 4294967295"),
        (dict(seed=2**32), "the seed is 4294967296"),
        (dict(guidance_scale=21), "the guidance is 21: give a number from 0 to 20"),
        (dict(guidance_scale=float("nan")), "the guidance is nan"),
        (dict(guidance_scale=[1]), r"the guidance is \[1\]"),
        (dict(label=2), "the class 2 is none of the model's 2"),
        (dict(label="day"), "the class day is none"),
        (dict(label=True), "the class True is none"),
        (dict(label=[1]), r"the class \[1\] is none"),
    ],
)
def test_what_is_out_of_range_is_refused(model, other, message):
    with pytest.raises(InputError, match=message):
        requests.read(model, ASKED._replace(**other))


def test_what_belongs_to_one_way_of_drawing_is_checked_there(model):
    asked = requests.read(model, ASKED)
    with pytest.raises(InputError, match="the sampler 'ode' is none of the page's: the model's own, euler"):
        requests.draw(model, asked, "ode")
    with pytest.raises(InputError, match="the strength is 2: give a number from 0 to 1"):
        requests.vary(model, asked, IMAGE, 2)
    with pytest.raises(InputError, match="the number of repetitions is 11: give a whole number from 1 to 10"):
        requests.fill(model, asked, IMAGE, np.eye(8, dtype=bool), 11)
    with pytest.raises(InputError, match="nothing is painted over"):
        requests.fill(model, asked, IMAGE, np.zeros((8, 8), bool), 1)
    with pytest.raises(InputError, match="the noise level is -1"):
        requests.noise(model, asked, IMAGE, -1)


def test_limits_are_above_0():
    with pytest.raises(InputError, match="max_steps=0 must be above 0"):
        Limits(max_steps=0)


def test_other_models_have_no_page(limits):
    other = object.__new__(AutoencoderPipeline)
    with pytest.raises(InputError, match="runs is a AutoencoderPipeline, and the page is for diffusion models"):
        Model.of(other, "runs", (), limits)
