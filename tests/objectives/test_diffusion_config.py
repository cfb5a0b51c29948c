"""Which schedules are warned of: sampling starts from pure noise, and so should they end."""

import re

import pytest

from marble import builders
from marble.cli.train import configured
from marble.config import load_config, shipped_configs
from marble.objectives.diffusion import SCHEDULES
from marble.objectives.diffusion_config import warn_of_image_left
from marble.pipelines import ImageSpec


def built(name, *words):
    config = configured(name, list(words))
    shape = (64, 64, 3) if "image_folder" in name else (32, 32, 3)
    return builders.build(config, ImageSpec(shape, 256))


def warnings(caplog):
    """What was said, but for what the command line tells of its own."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


OF_OTHERS = {"finetune", "lora"} | {
    f"{family}/{part}" for family in ("emoji", "cifar10_text") for part in ("clip", "latent")
}
"""What reads a checkpoint, texts or what another run has left."""


@pytest.mark.parametrize("name", sorted({*shipped_configs()} - OF_OTHERS))
def test_no_shipped_config_is_warned_of(name, caplog):
    for variant in ("", ":smoke"):
        built(name + variant)
    assert not warnings(caplog)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if not name.startswith("learned")])
def test_no_published_schedule_is_warned_of(name, caplog):
    warn_of_image_left(SCHEDULES[name](), num_steps=10**6)
    assert not warnings(caplog)


def test_a_tenth_of_the_steps_keeps_60_percent_of_the_image(caplog):
    fewer = "--config.diffusion.num_train_timesteps=100"
    built("digits", fewer)
    (said,) = warnings(caplog)
    # Of betas from 1e-4 to 0.02 the product of 1 - beta is 0.3636 after 100 steps, and its root 0.603.
    assert re.search("ends with 60 % of the image.*multiply its betas by 10,.*rescale_betas.*squaredcos_cap_v2", said)
    caplog.clear()
    for remedy in (
        ["--config.diffusion.beta_start=1e-3", "--config.diffusion.beta_end=0.2"],
        ["--config.diffusion.rescale_betas_zero_snr=True", "--config.diffusion.prediction_type=v"],
        ["--config.diffusion.beta_schedule=squaredcos_cap_v2"],
    ):
        built("digits", fewer, *remedy)
    assert not warnings(caplog)


def test_the_remedy_can_be_followed(caplog):
    built("digits", "--config.diffusion.beta_end=1e-4")  # of as many steps as are usual
    built("digits", "--config.diffusion.num_train_timesteps=15")  # 0.02 * 1000 / 15 is no beta
    assert len(warnings(caplog)) == 2 and all("raise its betas;" in said for said in warnings(caplog))
    caplog.clear()
    continuous = ["--config.diffusion.beta_schedule=cosine", "--config.sampling.num_steps=4"]
    built("digits", *continuous, "--config.diffusion.log_snr_min=0.0")
    (said,) = warnings(caplog)
    assert "ends with 71 % of the image" in said and "lower its log_snr_min" in said
    assert load_config("digits:smoke").diffusion.num_train_timesteps == 10  # the trial that is exempt
