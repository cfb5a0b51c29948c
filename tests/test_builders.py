"""The sections of a config follow its model."""

import pytest

from marble import builders
from marble.config import load_config
from marble.errors import InputError
from marble.objectives.vae import LIKELIHOODS
from marble.pipelines import ImageSpec


def test_a_vae_s_config_is_completed_and_built():
    config = builders.complete(load_config("digits_vae"))
    assert sorted(config) == [
        "data",
        "evaluation",
        "init_from",
        "init_from_partial",
        "model",
        "objective",
        "optimizer",
        "parallel",
        "sampling",
        "seed",
        "training",
        "vae",
    ]
    assert config.sampling.to_dict() == {"pixels": "mean", "batch_size": 64}
    assert builders.complete(config).to_dict() == config.to_dict()
    experiment = builders.build(config, ImageSpec((8, 8, 1), 17))
    assert (
        experiment.objective.model.image_shape == (8, 8, 1)
        and experiment.objective.likelihood is LIKELIHOODS["discretised_logistic"]
    )


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            "digits_vae",
            {"diffusion": {}},
            "section diffusion is not read with model.name='vae': remove it; .*data, model, vae",
        ),
        ("digits", {"vae": {}}, "section vae is not read with model.name='unet'"),
        (
            "digits_vae",
            {"vae": {"likelihood": "gausian"}},
            "vae.likelihood='gausian' is unknown; did you mean 'gaussian'",
        ),
        ("digits_vae", {"vae": {"scale": 1}}, "unknown config key vae.scale=1"),
        ("digits_vae", {"sampling": {"sampler": "ancestral"}}, "unknown config key sampling.sampler='ancestral'"),
        ("digits_vae", {"sampling": {"pixels": "none"}}, "sampling.pixels='none'"),
        ("digits_vae", {"model": {"name": "vea"}}, "model.name='vea' is unknown; did you mean 'vae'"),
        ("digits_vae", {"model": 3}, "model=3 must be a section"),
        ("digits_vae", {"vae": None}, "vae=None must be a section"),
    ],
)
def test_what_the_model_s_objective_does_not_read_is_refused(config, changes, message):
    with pytest.raises(InputError, match=message):
        builders.complete({**load_config(config).to_dict(), **changes})


def test_a_missing_section_is_named():
    config = load_config("digits_vae").to_dict()
    del config["vae"]
    with pytest.raises(InputError, match="the config has no config.vae"):
        builders.complete(config)
