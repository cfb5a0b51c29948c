"""scheduler_config.json as sections of a config, and back. Beside diffusers: test_scheduler_parity."""

import logging

import numpy as np
import pytest

from marble.convert.scheduler import scheduler_of, sections_of
from marble.convert.scheduler_classes import KINDS
from marble.errors import InputError
from marble.objectives.diffusion import SCHEDULES, Diffusion
from marble.objectives.samplers import SAMPLERS

# Stable Diffusion 1.5's, key for key.
PUBLISHED = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SECTIONS = {
    "diffusion": {
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "eps",
        "variance_type": "fixed_small",
        "rescale_betas_zero_snr": False,
    },
    "sampling": {
        "sampler": "pndm",
        "skip_prk_steps": True,
        "clip_sample": False,
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
    },
}


def test_stable_diffusions(caplog):
    with caplog.at_level(logging.INFO):
        assert sections_of(PUBLISHED) == SECTIONS
    assert "noise of step 0" not in caplog.text
    written = scheduler_of(SECTIONS)
    expected = dict(PUBLISHED)
    del expected["clip_sample"]  # which that class does not read
    assert {key: written[key] for key in expected} == expected
    assert sections_of(written) == SECTIONS
    assert sections_of(PUBLISHED | {"_class_name": "FlaxPNDMScheduler"}) == SECTIONS


def test_keys_that_a_class_does_not_read(caplog):
    # SDXL's has those of PNDM, from which it was made.
    caplog.set_level(logging.INFO)
    found = sections_of(PUBLISHED | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"})
    assert found["sampling"]["sampler"] == "euler" and "noise of step 0" not in caplog.text
    stray = {"thresholding": True, "sample_max_value": 9.0, "use_karras_sigmas": True, "clip_sample": True}
    for name in ("EulerAncestralDiscreteScheduler", "PNDMScheduler"):
        assert not sections_of(PUBLISHED | stray | {"_class_name": name})["sampling"]["clip_sample"]
        assert sections_of(PUBLISHED | stray | {"_class_name": name})["sampling"]["timestep_spacing"] != "karras"
    sections_of({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_min"})
    assert "noise of step 0" in caplog.text


@pytest.mark.parametrize("name", KINDS)
def test_every_key_is_one_that_a_config_has(name):
    for section, values in sections_of({"_class_name": name}).items():
        known = Diffusion.sections[section].keys_for(section, values)
        assert set(values) <= known | set(Diffusion.sections[section].names)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_written_and_read_again(sampler):
    written = scheduler_of({"diffusion": {}, "sampling": {"sampler": sampler, "clip_sample": False}})
    again = sections_of(written)
    expected = sampler if sampler not in ("ode", "predictor_corrector", "consistency") else "ddim"
    assert again["sampling"]["sampler"] == expected and again["sampling"]["clip_sample"] is False
    assert again["diffusion"]["beta_schedule"] == next(iter(SCHEDULES))  # what leaving it out means
    assert scheduler_of(again) == written or KINDS[written["_class_name"]].leaves_out_last


@pytest.mark.parametrize(
    "sampling",
    [
        {"sampler": "ancestral", "variance_type": "fixed_large", "timestep_spacing": "trailing", "clip_sample": True},
        {"sampler": "unipc", "order": 3, "variant": "bh1", "lower_order_final": False, "timestep_spacing": "karras"},
        {"sampler": "dpm_solver_3m", "corrected": False, "timestep_spacing": "log_snr", "clip_sample": True},
        {"sampler": "dpm_solver_sde", "lower_order_final": False, "timestep_spacing": "trailing"},
        {"sampler": "heun", "timestep_spacing": "karras", "clip_sample": True, "use_clipped_model_output": True},
        {"sampler": "euler", "timestep_spacing": "karras", "sigma_min": 0.1, "sigma_max": 10.0, "clip_sample": False},
        {"sampler": "ddim", "timestep_spacing": "linspace", "steps_offset": 2, "clip_sample": False},
    ],
)
def test_settings_there_and_back(sampling):
    again = sections_of(scheduler_of({"diffusion": {"prediction_type": "v"}, "sampling": sampling}))
    assert {key: again["sampling"][key] for key in sampling} == sampling
    assert again["diffusion"]["prediction_type"] == "v"


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "quadratic", "constant", "squaredcos_cap_v2", "sigmoid"])
def test_every_schedule_that_diffusers_has(name):
    words = {"beta_schedule": name, "num_train_timesteps": 40, **({"beta_end": 0.3} if name == "constant" else {})}
    again = sections_of(scheduler_of({"diffusion": words, "sampling": {"sampler": "ancestral"}}))["diffusion"]
    betas = [
        SCHEDULES[section.pop("beta_schedule")](**{k: v for k, v in section.items() if k.startswith(("beta", "num"))})
        for section in (dict(words), again)
    ]
    np.testing.assert_array_equal(betas[0].betas, betas[1].betas)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler is not supported"),
        ({"_class_name": "LCMScheduler"}, "LCMScheduler is not supported"),
        ({"_class_name": None}, "has no _class_name"),
        ({"trained_betas": [0.1] * 1000}, r"trained_betas=\[...\] is not supported"),
        ({"beta_schedule": "laplace"}, "beta_schedule='laplace' is not supported: what is, is linear"),
        ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction' is not supported"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True is not supported"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type='continuous'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type='learned' is not supported"),
        ({"_class_name": "DDIMScheduler", "clip_sample": True, "clip_sample_range": 2.0}, "clip_sample_range=2.0"),
        (
            {"_class_name": "UniPCMultistepScheduler", "thresholding": True, "sample_max_value": 1.5},
            "sample_max_value=1.5",
        ),
    ],
)
def test_what_is_refused(changes, said):
    with pytest.raises(InputError, match=said) as caught:
        sections_of(PUBLISHED | changes)
    assert "\n" not in str(caught.value)


def test_what_is_clipped_with_and_without():
    of = lambda **changes: sections_of(PUBLISHED | changes)["sampling"]["clip_sample"]  # noqa: E731
    assert not of(clip_sample=True)  # PNDM can't
    assert of(_class_name="DDIMScheduler", clip_sample=True)
    assert not of(_class_name="DDIMScheduler", clip_sample=False, clip_sample_range=3.0)
    assert of(_class_name="DPMSolverMultistepScheduler", thresholding=True, sample_max_value=1.0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"diffusion": {"beta_schedule": "edm"}}, "beta_schedule='edm'"),
        ({"diffusion": {"beta_schedule": "squaredcos_cap_v2", "max_beta": 0.5}}, "beta_schedule='squaredcos_cap_v2'"),
        ({"diffusion": {"prediction_type": "score"}}, "prediction_type='score' is none that diffusers has"),
        ({"sampling": {"sampler": "ancestral", "variance_type": "learned"}}, "variance_type='learned'"),
    ],
)
def test_what_is_not_written(config, said):
    with pytest.raises(InputError, match=said):
        scheduler_of(config)


def test_what_diffusers_lacks_is_said(caplog):
    assert sections_of(PUBLISHED | {"_class_name": "LMSDiscreteScheduler"})["sampling"]["sampler"] == "ddim"
    assert "no sampler LMSDiscreteScheduler" in caplog.text
    v = {"prediction_type": "v", "rescale_betas_zero_snr": True}
    assert scheduler_of({"diffusion": v, "sampling": {"sampler": "pndm"}})["_class_name"] == "DDIMScheduler"
    sigmoid = {"beta_schedule": "sigmoid"}
    assert scheduler_of({"diffusion": sigmoid, "sampling": {"sampler": "ddim"}})["_class_name"] == "DDPMScheduler"
    written = scheduler_of({"sampling": {"sampler": "ddim", "timestep_spacing": "karras"}})
    assert written["timestep_spacing"] == "trailing" and "no grid like 'karras'" in caplog.text
    scheduler_of({"sampling": {"sampler": "euler", "clip_sample": True}})
    assert "can't clip" in caplog.text
