"""Runs as folders of diffusers, steps of them, and what diffusers has not."""

import json
import logging

import jax
import pytest
import small_pipelines
from conversion.folders import assert_nothing_at, assert_same_params, remembered
from processes import final_state

from marble import builders, loading, run
from marble.config import load_config
from marble.conversion import convert
from marble.convert.folder import open_part, params_of_part
from marble.errors import InputError


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The workdir of a small run."""
    folder = tmp_path_factory.mktemp("digits")
    run.run(small_digits(), str(folder))
    return folder


def small_digits(**changes):
    config = builders.complete(load_config("digits:smoke"))
    config.model.channel_mult, config.training.num_steps, config.training.checkpoint_every = (1,), 2, 1
    config.training.sample_every = config.training.eval_every = 0
    for key, value in changes.items():
        config[key] = value
    return config


def test_a_run_begins_with_what_a_run_became(digits, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    convert(digits, tmp_path / "theirs")
    assert "wrote" in caplog.text and "a DDPMPipeline of diffusers" in caplog.text
    convert(tmp_path / "theirs", tmp_path / "ours")
    began = []
    monkeypatch.setattr(run, "train", lambda **found: began.append(found["state"]))
    run.run(small_digits(init_from=str(tmp_path / "ours")), str(tmp_path / "run"))
    _, state = final_state(digits)
    for params in (began[0].params, began[0].ema_params):
        assert_same_params(jax.device_get(params), jax.device_get(state.ema_params))


def test_a_step_is_chosen(digits, tmp_path):
    for step in (1, 2):
        convert(digits, tmp_path / str(step), step=step)
        _, _, params = loading.load_params(str(digits), step=step)
        assert_same_params(params_of_part(open_part(tmp_path / str(step) / "unet")), params)
    with pytest.raises(InputError, match="no checkpoint of step 7 .*there are: 2, 1"):
        convert(digits, tmp_path / "none", step=7)
    assert_nothing_at(tmp_path / "none")


def of_config(name, **sections):
    config = load_config(name)
    for section, keys in sections.items():
        config[section] = {**config[section].to_dict(), **keys}
    return config


LEARNED = dict(beta_schedule="learned_linear", weighting="elbo")
ADM_MODEL = dict(name="adm", channels=32, channel_mult=(1, 2), num_res_blocks=1)
REFUSED = {
    "vae": (lambda: load_config("digits_vae:smoke"), "diffusers has no objective='vae'"),
    "learned": (
        lambda: load_config("digits:smoke").to_dict() | {"diffusion": LEARNED},
        "diffusion.beta_schedule='learned_linear' .* is none that diffusers has",
    ),
    "self-conditioning": (
        lambda: of_config("digits:smoke", training={"self_conditioning": True}),
        "diffusers has no training.self_conditioning=True",
    ),
    "adm": (
        lambda: {**load_config("digits:smoke").to_dict(), "model": ADM_MODEL},
        "diffusers has no model.name='adm'",
    ),
    "DiT of pixels": (
        lambda: {**load_config("digits:smoke").to_dict(), "model": {"name": "dit", "num_classes": 10}},
        "no pipeline of model.name='dit' with codec='identity': it has one with 'autoencoder'",
    ),
    "posterior mean": (
        lambda: of_config("digits:smoke", diffusion={"prediction_type": "posterior_mean"}),
        "diffusion.prediction_type='posterior_mean' is none that diffusers has",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_diffusers_has_not_is_refused_by_name(name, tmp_path):
    config, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as error:
        convert(remembered(tmp_path / "run", config()), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert_nothing_at(tmp_path / "out")


@pytest.fixture
def changed(tmp_path):
    """changed(section, key, value): the workdir of a Stable Diffusion whose config says so."""
    workdir = tmp_path / "run"
    convert(small_pipelines.stable_diffusion(tmp_path / "in"), workdir)
    kept = json.loads((workdir / "config.json").read_text())

    def with_value(section, key, value):
        config = {**kept["config"], section: {**kept["config"][section], key: value}}
        (workdir / "config.json").write_text(json.dumps({**kept, "config": config}))
        return workdir

    return with_value


def test_text_encoders_that_diffusers_pipelines_have_not_are_refused(changed, tmp_path):
    for key, value in {"states": "penultimate", "zero_null": True}.items():
        with pytest.raises(InputError, match=f"StableDiffusionPipeline has text.{key}="):
            convert(changed("text", key, value), tmp_path / "out")


def test_a_scale_of_the_config_s_own_is_told_the_autoencoder(changed, tmp_path):
    convert(changed("autoencoder", "scale", 0.25), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "vae" / "config.json").read_text())["scaling_factor"] == 0.25
