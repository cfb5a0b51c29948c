"""Configs are checked against the signatures that they are for."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
from ml_collections import ConfigDict

from marble import builders
from marble.cli.train import configured
from marble.config import completed, differences, flat, load_config
from marble.diffusion import weighting
from marble.errors import InputError
from marble.objectives.diffusion import SCHEDULES
from marble.objectives.samplers import SAMPLERS
from marble.schema import bind


@dataclasses.dataclass
class Part:
    size: int
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    mult: tuple[int, ...] = (1, 2)
    name: str | None = None


def other(*, speed: bool = True):
    """Another user of the same section."""


def test_values_reach_the_signature_that_has_them():
    part, rest = bind("part", {"size": 3, "mult": [4], "speed": False, "rate": 1}, Part, other)
    assert Part(**part) == Part(3, rate=1, mult=(4,)) and rest == {"speed": False}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sise": 3}, r"unknown config key part.sise=3; did you mean 'size'\?"),
        ({"size": 3, "xyz": 1}, "unknown config key part.xyz=1; there are: size, rate"),
        ({"size": "3"}, "part.size='3' is str, but must be int"),
        ({"size": True}, "part.size=True is bool, but must be int"),
        ({"size": 3.0}, "part.size=3.0 is float, but must be int"),
        ({"size": 3, "kind": "c"}, "part.kind='c' is unknown; there are: a, b"),
        ({"size": 3, "mult": (1, "2")}, "part.mult="),
        ({"size": 3, "name": 4}, "part.name=4"),
        ({}, "the config has no part.size"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(InputError, match=message):
        bind("part", values, Part)


def test_a_completed_section_can_be_overridden_with_its_types():
    section = completed({"size": 3}, Part, other)
    assert section.to_dict() == {"size": 3, "rate": 0.5, "kind": "a", "mult": (1, 2), "name": None, "speed": True}
    section.name = "x"
    with pytest.raises(TypeError):
        section.name = 3


def test_none_is_stated_where_a_type_has_it_and_else_left_to_the_default():
    def made(classes: int | None = 1000, size: int = 4, width: int | None = None):
        return classes, size, width

    section = completed({"classes": None, "size": None, "width": None}, made)
    assert section.to_dict() == {"classes": None, "size": 4, "width": None}
    assert completed({}, made).classes == 1000
    section.classes = 7  # and it knows its type
    with pytest.raises(TypeError):
        section.classes = "seven"
    assert completed(completed({"classes": None}, made).to_dict(), made).classes is None


def test_flat_has_dotted_keys():
    assert flat({"a": {"b": (1, 2), "c": {}}, "d": None}) == {"a.b": [1, 2], "d": None}


def test_differences_tell_what_may_change():
    before = {"seed": 0, "model": {"channels": 8}, "training": {"num_steps": 5, "log_every": 1, "batch_size": 8}}
    after = {"seed": 1, "model": {"channels": 16}, "training": {"num_steps": 9, "log_every": 2, "batch_size": 4}}
    fixed, free = differences(before, after)
    assert fixed == ["seed: 0 -> 1", "model.channels: 8 -> 16", "training.batch_size: 8 -> 4"]
    assert free == ["training.num_steps: 5 -> 9", "training.log_every: 1 -> 2"]
    assert differences(before, before) == ([], [])
    assert differences({"data": {"source": "a", "name": "x"}}, {"data": {"source": "b", "name": "x"}})[0] == []


def test_configs_are_found_by_path_and_by_name(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from ml_collections import ConfigDict\ndef get_config(v=None):\n    return ConfigDict({'v': v})\n")
    assert load_config(str(path)).v is None
    assert load_config(f"{path}:large").v == "large"
    assert load_config("cifar10").training.num_steps == 800_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar", "no config file 'cifar'.*did you mean 'cifar10'"),
        ("digits:huge", "no variant 'huge'; there are: conditional, flow, smoke"),
    ],
)
def test_a_config_that_is_not_there(name, message):
    with pytest.raises(InputError, match=message):
        load_config(name)


def test_a_config_that_fails_says_how(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("import nowhere_to_be_found\n")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        load_config(str(path))


def minimal():
    return load_config("digits:smoke")


def change(config, key, value):
    section, _, name = key.partition(".")
    values = config.to_dict()
    if name:
        values[section][name] = value
    else:
        values[section] = value
    return ConfigDict(values)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.name", "unett", "model.name='unett' is unknown; did you mean 'unet'"),
        ("model.dtype", "float16", "model.dtype='float16' is unknown"),
        ("model.chanels", 3, "unknown config key model.chanels=3; did you mean 'channels'"),
        ("diffusion.beta_schedule", "lin", "diffusion.beta_schedule='lin' is unknown"),
        ("diffusion.variance_type", "small", "diffusion.variance_type='small'"),
        ("diffusion.gamma", 5.0, "unknown config key diffusion.gamma"),
        ("optimizer.lr", 1.0, "unknown config key optimizer.lr=1.0"),
        ("sampling.sampler", "ddin", "sampling.sampler='ddin' is unknown; did you mean 'ddim'"),
        ("sampling.variance_type", "large", "sampling.variance_type='large'"),
        ("training.batch_size", "many", "training.batch_size='many' is str"),
        ("trainning", {}, "unknown config key config.trainning=.*; did you mean 'training'"),
        ("seed", "zero", "seed='zero' is str"),
    ],
)
def test_a_wrong_config_is_refused_with_the_key(key, value, message):
    with pytest.raises(InputError, match=message):
        builders.complete(change(minimal(), key, value))


def test_completing_twice_changes_nothing():
    once = builders.complete(minimal())
    assert builders.complete(once).to_dict() == once.to_dict()
    assert isinstance(once, ConfigDict)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_a_config_word(name):
    config = builders.complete(change(minimal(), "sampling", {"sampler": name}))
    assert builders.complete(config).to_dict() == config.to_dict()
    assert callable(builders.build(config, builders.ImageSpec((8, 8, 1), 17)).objective.sampler.step)


def test_settings_of_a_sampler_are_checked_when_it_is_built():
    config = change(minimal(), "sampling", {"sampler": "ddim", "eta": 2.0})
    with pytest.raises(InputError, match="eta=2.0 must be between 0 and 1"):
        builders.build(config, builders.ImageSpec((8, 8, 1), 17))


def test_another_sampler_takes_the_settings_that_it_has():
    sampling = {"sampler": "ancestral", "variance_type": "fixed_large", "num_steps": 7}
    config = {**minimal().to_dict(), "sampling": sampling}

    def with_sampler(name):
        return builders.renamed(config, "sampling", "sampler", name)

    assert with_sampler("ddim") == {**config, "sampling": {"sampler": "ddim", "num_steps": 7}}
    assert with_sampler("ancestral") == config


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_schedule_can_be_chosen_on_the_command_line(name):
    words = [f"--config.diffusion.{word}" for word in (f"beta_schedule={name}", "prediction_type=v")]
    words.append("--config.sampling.num_steps=5")
    if name.startswith("learned"):
        words.append("--config.diffusion.weighting=elbo")
    config = configured("digits:smoke", words)
    experiment = builders.build(config, builders.ImageSpec((8, 8, 1), 17))
    experiment.objective.check()
    assert config.diffusion.beta_schedule == name


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_can_be_chosen_on_the_command_line(name, caplog):
    with caplog.at_level("INFO"):
        config = configured("digits:smoke", [f"--config.sampling.sampler={name}"])
    builders.build(config, builders.ImageSpec((8, 8, 1), 17))
    # What the config says of the sampler before is left out, aloud.
    assert ("has no sampling.variance_type" in caplog.text) == (name != "ancestral")


def test_a_learned_variance_is_used_unless_the_config_says_otherwise(caplog):
    config = minimal().to_dict()
    learned = {**config, "diffusion": {**config["diffusion"], "variance_type": "learned_range"}, "sampling": {}}
    assert builders.complete(learned).sampling.variance_type == "learned_range"
    assert builders.build(learned, builders.ImageSpec((8, 8, 1), 17)).objective.sampler.variance_type == "learned_range"
    stated = {**learned, "sampling": {"variance_type": "fixed_small"}}
    builders.build(stated, builders.ImageSpec((8, 8, 1), 17))
    assert "leaves the variance that is learned unused" in caplog.text


def test_guidance_without_labels_is_refused_when_it_is_built():
    for key, value in (("guidance_scale", 3.0), ("guidance_interval", (0.1, 2.0)), ("guidance_rescale", 0.5)):
        config = change(minimal(), "sampling", {key: value})
        with pytest.raises(InputError, match=f"{key}=.* needs a model that was trained with and without labels"):
            builders.build(config, builders.ImageSpec((8, 8, 1), 17))


def words(changes, **sections):
    config = minimal().to_dict()
    for key, value in changes.items():
        section, _, name = key.partition(".")
        config[section][name] = value
    return ConfigDict({**config, **sections})


def test_weightings_are_config_words_with_their_arguments():
    t = np.arange(1, 10)
    for changes, expected in (
        ({"diffusion.weighting": "elbo", "diffusion.variance_type": "fixed_large"}, {"variance_type": "fixed_large"}),
        ({"diffusion.weighting": "elbo"}, {}),
    ):
        objective = builders.build(words(changes), builders.ImageSpec((8, 8, 1), 17)).objective
        found = objective.weighting(objective.schedule, t)
        np.testing.assert_array_equal(found, weighting.elbo(objective.schedule, t, **expected))
    objective = builders.build(
        words({"diffusion.weighting": "min_snr", "diffusion.gamma": 2.0}), builders.ImageSpec((8, 8, 1), 17)
    ).objective
    np.testing.assert_array_equal(
        objective.weighting(objective.schedule, t), weighting.min_snr(objective.schedule, t, gamma=2.0)
    )
    objective = builders.build(minimal(), builders.ImageSpec((8, 8, 1), 17)).objective
    assert objective.weighting(objective.schedule, t) is None


STEPLESS = {"beta_schedule": "cosine"}


@pytest.mark.parametrize(
    ("changes", "sections", "message"),
    [
        ({"diffusion.rescale_betas_zero_snr": True}, {}, "prediction_type='eps' says nothing .* set it to v or x_0"),
        (
            {},
            {"diffusion": {"beta_schedule": "jsd", "num_train_timesteps": 10, "prediction_type": "score"}},
            "prediction_type='score' says nothing",
        ),
        ({}, {"diffusion": {**STEPLESS, "rescale_betas_zero_snr": True}}, "beta_schedule='cosine' has none"),
        ({}, {"diffusion": {**STEPLESS, "prediction_type": "posterior_mean"}}, "'posterior_mean' needs .* of steps"),
        ({}, {"diffusion": {**STEPLESS, "variance_type": "learned"}}, "'learned' needs .* of steps"),
        ({"training.timestep_sampling": "importance"}, {"diffusion": STEPLESS}, "'importance' needs .* of steps"),
        ({"diffusion.weighting": "elbo", "diffusion.variance_type": "learned"}, {}, "set weighting to simple"),
        ({"sampling.variance_type": "learned_range"}, {}, "trained with diffusion.variance_type='learned_range'"),
        ({}, {"diffusion": {"beta_schedule": "learned_linear"}}, "set diffusion.weighting='elbo'"),
        ({"training.timestep_sampling": "even"}, {}, "training.timestep_sampling='even'"),
        ({"diffusion.prediction_type": "noise"}, {}, "diffusion.prediction_type='noise'"),
    ],
)
def test_words_that_do_not_go_together_are_refused(changes, sections, message):
    with pytest.raises(InputError, match=message):
        builders.build(words(changes, **sections), builders.ImageSpec((8, 8, 1), 17))
