"""Schedulers beside diffusers' own: the same betas, the same steps, the same images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble import diffusion
from marble.convert.scheduler import scheduler_of, sections_of
from marble.convert.scheduler_classes import KINDS, no_such
from marble.objectives.diffusion import SCHEDULES
from marble.objectives.diffusion_config import DiffusionConfig
from marble.objectives.samplers import SAMPLERS, with_schedule
from marble.pipelines import SamplingConfig
from marble.sampling import image_keys, sample
from marble.typing import Prediction

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
CLASSES = [name for name in KINDS if name != "DPMSolverSDEScheduler"]  # whose library is not there
WORDS = ("prediction_type", "variance_type", "rescale_betas_zero_snr")
SETTINGS = ("clip_sample", "use_clipped_model_output", "timestep_spacing", "steps_offset", "set_alpha_to_one")
SETTINGS += ("sigma_min", "sigma_max")


def theirs_of(name, **options):
    scheduler = getattr(diffusers, name)(**options)
    return scheduler, dict(scheduler.config) | {"_class_name": name}


def built(sections):
    """The schedule, the sampler and the settings of sections: what the objective makes of them."""
    words = dict(sections["diffusion"])
    chosen = DiffusionConfig(**{key: words.pop(key) for key in WORDS})
    name = words.pop("beta_schedule")
    schedule = chosen.stretched(SCHEDULES[name](**words), name)
    arguments = dict(sections["sampling"])
    settings = SamplingConfig(**{key: arguments.pop(key) for key in SETTINGS if key in arguments})
    return schedule, with_schedule(SAMPLERS[arguments.pop("sampler")], schedule, **arguments), settings, chosen


VALUES = {
    "as they are": {},
    "Stable Diffusion's": STABLE | dict(timestep_spacing="leading"),
    "trailing, cosine, v": dict(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    ),
    "no image at the end": STABLE | dict(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", CLASSES)
def test_the_betas_are_the_same_and_back(name, values):
    known = getattr(diffusers, name)().config
    options = {key: value for key, value in VALUES[values].items() if key in known}
    theirs, config = theirs_of(name, **options)
    sections = sections_of(config)
    schedule, *_ = built(sections)
    expected = theirs.alphas_cumprod.numpy().copy()
    if options.get("rescale_betas_zero_snr"):
        expected[-1] = 0  # some have a small number there, for they divide by it
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, atol=1e-6)
    again = scheduler_of(sections)
    assert sections_of(again)["diffusion"] == sections["diffusion"] | {"variance_type": "fixed_small"}
    there = getattr(diffusers, again["_class_name"]).from_config(again)
    np.testing.assert_array_equal(there.betas, theirs.betas)
    assert there.config.prediction_type == theirs.config.prediction_type
    assert sections_of(scheduler_of(sections))["sampling"] == sections["sampling"]


def test_the_betas_of_a_sigmoid():
    theirs, config = theirs_of("DDPMScheduler", beta_schedule="sigmoid", variance_type="fixed_large")
    sections = sections_of(config)
    np.testing.assert_allclose(built(sections)[0].alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)
    assert diffusers.DDPMScheduler.from_config(scheduler_of(sections)).config.variance_type == "fixed_large"


def their_steps(theirs, name, count):
    """From noisy to clean, each once."""
    theirs.set_timesteps(count)
    if name == "PNDMScheduler" and not theirs.config.skip_prk_steps:
        # Four calls for each of the first three steps, the first of them at the step.
        return np.concatenate([theirs.prk_timesteps[::4], theirs.plms_timesteps])
    steps = theirs.timesteps.numpy()
    return steps[np.sort(np.unique(steps, return_index=True)[1])]


@pytest.mark.parametrize("count", [10, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", [name for name in CLASSES if KINDS[name].sampler is not no_such])
def test_the_steps_are_the_same(name, spacing, count):
    theirs, config = theirs_of(name, **STABLE, timestep_spacing=spacing)
    schedule, _, settings, _ = built(sections_of(config))
    ours, expected = settings.levels(schedule, count).t[:-1], their_steps(theirs, name, count)
    if KINDS[name].leaves_out_last and spacing == "leading":
        stride = 1000 // (count + 1)  # said in the log
        np.testing.assert_array_equal(expected, np.arange(count, 0, -1) * stride + 1)
        return
    # Solvers have no such linspace, and Euler's steps are fractions there.
    most = {True: 1, False: 0.5 if expected.dtype.kind == "f" else 0}[KINDS[name].leaves_out_last]
    np.testing.assert_allclose(ours, expected, atol=most if spacing == "linspace" else 0)


EXACT = {
    "DDIMScheduler": dict(clip_sample=True),
    "PNDMScheduler": dict(skip_prk_steps=True, set_alpha_to_one=True),
    "DDIMScheduler ": dict(set_alpha_to_one=False, clip_sample=False),
    "PNDMScheduler ": dict(skip_prk_steps=True, set_alpha_to_one=False),
    "DPMSolverMultistepScheduler": dict(timestep_spacing="trailing"),
    "DPMSolverMultistepScheduler ": dict(timestep_spacing="trailing", solver_order=3, thresholding=True),
    "UniPCMultistepScheduler": dict(timestep_spacing="trailing", solver_order=3),
    "EulerDiscreteScheduler": dict(timestep_spacing="leading"),
    "EulerDiscreteScheduler ": dict(use_karras_sigmas=True),
    "EulerDiscreteScheduler  ": dict(use_exponential_sigmas=True),
    "HeunDiscreteScheduler": dict(timestep_spacing="trailing", clip_sample=True),
}
SHAPE = (4, 4, 2)


def model(x, t, xp):
    """A prediction of eps that every sampler has to ask at the right t."""
    return x * (0.3 + 0.4 * xp.cos(t / 300.0))


def their_images(theirs, noise, count):
    theirs.set_timesteps(count)
    x = torch.tensor(noise)
    if theirs.init_noise_sigma != 1:
        # Of the variance 1 as the network sees it; where they start with sigma alone, it is a little less.
        x = x * (theirs.sigmas.max() ** 2 + 1) ** 0.5
    for t in theirs.timesteps:
        x = theirs.step(model(theirs.scale_model_input(x, t), t.float(), torch), t, x).prev_sample
    return x.numpy()


def our_images(sections, noise, count):
    schedule, sampler, settings, chosen = built(sections)
    network = lambda x, t, context: model(x, t.astype(jnp.float32).reshape(-1, 1, 1, 1), jnp)  # noqa: E731
    denoise_fn = settings.clipped(diffusion.denoiser(network, schedule, prediction_type=chosen.prediction_type))
    levels, keys = settings.levels(schedule, count, sampler=sampler), image_keys(0, jnp.arange(len(noise)))
    return np.asarray(jax.jit(lambda: sample(denoise_fn, sampler, levels, keys, SHAPE, noise=jnp.asarray(noise)))())


@pytest.mark.parametrize("name", EXACT)
def test_the_images_are_the_same(name):
    theirs, config = theirs_of(name.strip(), **STABLE, **EXACT[name])
    noise = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    expected, ours = their_images(theirs, noise, 20), our_images(sections_of(config), noise, 20)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_a_last_step_to_the_first_noise_changes():
    # One step, from t = 1: x_0 as predicted, and alpha_0 x_0 + sigma_0 eps without set_alpha_to_one.
    theirs, config = theirs_of("DDIMScheduler", **STABLE, set_alpha_to_one=False, clip_sample=False)
    sections = sections_of(config)
    assert sections["sampling"].pop("set_alpha_to_one") is False
    noise = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    x_0, expected = our_images(sections, noise, 1), their_images(theirs, noise, 1)
    alpha, sigma = (np.sqrt(float(a)) for a in (theirs.alphas_cumprod[0], 1 - theirs.alphas_cumprod[0]))
    eps = model(noise, np.float32(1), np)
    np.testing.assert_allclose(alpha * x_0 + sigma * eps, expected, rtol=1e-4, atol=1e-4)


def test_eulers_ancestral_step_is_ddpms():
    theirs, config = theirs_of("EulerAncestralDiscreteScheduler", **STABLE, timestep_spacing="trailing")
    assert sections_of(config)["sampling"]["variance_type"] == "fixed_small"
    theirs.set_timesteps(10)
    t, s = (int(step) for step in theirs.timesteps[3:5])
    x, x_0, noise = (np.random.default_rng(i).standard_normal((1, 2, 2, 1)) for i in range(3))
    schedule, *_ = built(sections_of(config))
    level_t, level_s = schedule.level(t), schedule.level(s)
    eps = (x - level_t.alpha * x_0) / level_t.sigma
    levels = dict(level_t=level_t, level_s=level_s)
    ours = diffusion.ancestral_step(Prediction(x_0, eps), x_t=x, **levels, noise=noise)
    sigma, down_to = float(level_t.sigma / level_t.alpha), float(level_s.sigma / level_s.alpha)
    up = (down_to**2 * (sigma**2 - down_to**2) / sigma**2) ** 0.5
    down = (down_to**2 - up**2) ** 0.5
    expected = x / level_t.alpha + (down - sigma) * eps + up * noise
    np.testing.assert_allclose(np.asarray(ours) / level_s.alpha, expected, rtol=2e-5, atol=2e-5)
