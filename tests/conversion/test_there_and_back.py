"""Pipelines of diffusers to workdirs and back: nothing is lost. Beside diffusers: convert/test_conversion_parity.py."""

import functools
import json
from typing import NamedTuple

import numpy as np
import pytest
import small_pipelines
from conversion.folders import assert_same, assert_same_params, weights

import marble
from marble import loading
from marble.conversion import convert
from marble.convert.folder import open_part, params_of_part
from marble.errors import InputError

DENOISERS = {"pixels": "unet", "stable_diffusion": "unet", "stable_diffusion_xl": "unet", "classes": "transformer"}


class Folders(NamedTuple):
    """A pipeline's folder, its workdir, the folder of that."""

    source: object
    workdir: object
    back: object


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """converted(name): the Folders of that pipeline, made once."""

    @functools.cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        source = getattr(small_pipelines, name)(folder / "in")
        convert(source, folder / "workdir")
        # It can be moved, and what it was made of may be gone.
        (folder / "workdir").rename(folder / "moved")
        source = source.rename(folder / "in, moved")
        convert(folder / "moved", folder / "back")
        return Folders(source, folder / "moved", folder / "back")

    return made


@pytest.mark.parametrize("name", DENOISERS)
def test_every_tensor_and_config_is_the_same(converted, name):
    source, _, back = converted(name)
    assert_same(weights(back), weights(source))
    for path in source.rglob("*"):
        if path.is_file() and "tokenizer" in path.parent.name:
            assert (back / path.relative_to(source)).read_bytes() == path.read_bytes()
    for path in source.rglob("config.json"):
        before, now = (json.loads(p.read_text()) for p in (path, back / path.relative_to(source)))
        assert {key: value for key, value in now.items() if key in before} == before
    before, now = loading.recalled(str(source)), loading.recalled(str(back))
    assert now[1] == before[1]
    for section in ("model", "diffusion", "sampling"):
        assert now[0][section] == before[0][section]


@pytest.mark.parametrize("name", DENOISERS)
def test_the_workdir_has_the_parameters_once_and_only_what_is_read(converted, name):
    source, made, _ = converted(name)
    step, _, params = loading.load_params(str(made))
    assert step == 0
    assert_same_params(params, params_of_part(open_part(source / DENOISERS[name])))
    parts = {path.name for path in source.iterdir() if path.is_dir()} - {DENOISERS[name], "scheduler"}
    assert {path.name for path in made.iterdir()} == {"config.json", "checkpoints"} | parts
    assert "{workdir}" in (made / "config.json").read_text() or name == "pixels"
    assert str(source.parent) not in (made / "config.json").read_text()


@pytest.mark.parametrize(
    ("name", "asked"),
    [("pixels", {}), ("stable_diffusion", {"text": "a photo of a cat"})],
    ids=["pixels", "text"],
)
def test_the_images_are_the_same_bit_for_bit(converted, name, asked):
    drawn = [marble.load(str(folder)).sample(2, steps=4, **asked) for folder in converted(name)]
    assert drawn[0].std() > 1
    for images in drawn[1:]:
        np.testing.assert_array_equal(images, drawn[0])


@pytest.mark.parametrize("name", DENOISERS)
def test_parameters_of_the_last_step_are_refused_for_there_are_none(converted, name):
    with pytest.raises(InputError, match="params"):
        marble.load(str(converted(name).workdir), raw_params=True)
