"""Pipelines that diffusers wrote, loaded from their folders: the same prompt and noise give the same image."""

import inspect
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from marble import loading
from marble.diffusion import ancestral_step
from marble.pipelines.editing import edit
from marble.sampling import fold_keys, image_keys, noise_like
from marble.sampling.sampler import Step

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from convert import pipeline_folders  # noqa: E402

pytestmark = pytest.mark.parity

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
PROMPTS, NEGATIVE = ["a red fox", "cat on the moon", "moon moon"], ["blurry", "", "a cat"]


class Pair(NamedTuple):
    """Their pipeline, and ours of the same folder."""

    theirs: object
    folder: Path

    def rescheduled(self, scheduler):
        """The same networks with another scheduler, in the folder too."""
        scheduler.save_pretrained(self.folder / "scheduler")
        config = json.loads((self.folder / "model_index.json").read_text())
        config["scheduler"] = ["diffusers", type(scheduler).__name__]
        (self.folder / "model_index.json").write_text(json.dumps(config))
        self.theirs.scheduler = scheduler
        return loading.load(str(self.folder))


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stable")
    return Pair(pipeline_folders.stable_diffusion(folder), folder / "sd")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl")
    return Pair(pipeline_folders.stable_diffusion_xl(folder), folder / "sd")


def noise_of(num, height=8, width=8, channels=4):
    return np.random.default_rng(0).standard_normal((num, height, width, channels)).astype(np.float32)


def nchw(array):
    return torch.tensor(np.asarray(array).transpose(0, 3, 1, 2))


def at_first_level(noise, scheduler, steps):
    """The latents from which theirs starts as ours does, with noise of the variance 1 as the network sees it.

    Euler's start from sigma alone where the grid begins at T - 1: theirs is sigma / sqrt(sigma² + 1) of it there.
    """
    scheduler.set_timesteps(steps)
    sigmas = getattr(scheduler, "sigmas", None)
    has_sigmas = sigmas is not None and float(scheduler.init_noise_sigma) != 1
    size = float((sigmas.max() ** 2 + 1) ** 0.5 / scheduler.init_noise_sigma) if has_sigmas else 1.0
    return nchw(noise * np.float32(size))


def their_images(pipe, noise, *prompts, steps, **options):
    latents = at_first_level(noise, pipe.scheduler, steps)
    height, width = (2 * side for side in noise.shape[1:3])
    found = pipe(
        *prompts, latents=latents, num_inference_steps=steps, height=height, width=width, output_type="np", **options
    )
    return np.round(found.images * 255)


def assert_same_images(ours, theirs):
    """Within one grey level in 99 % of the pixels, of images that aren't of one colour."""
    assert ours.shape == theirs.shape and ours.dtype == np.uint8
    assert ours.std() > 20
    apart = np.abs(ours.astype(int) - theirs)
    assert (apart <= 1).mean() >= 0.99, apart.max()


SCHEDULERS = {
    # As Stable Diffusion has them: they end at the noise of step 0.
    "ddim": lambda: diffusers.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False),
    "pndm": lambda: diffusers.PNDMScheduler(**SD, skip_prk_steps=True),
    "ddim to the clean image": lambda: diffusers.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=True),
    "pndm to the clean image": lambda: diffusers.PNDMScheduler(**SD, skip_prk_steps=True, set_alpha_to_one=True),
    "dpm": lambda: diffusers.DPMSolverMultistepScheduler(**SD, timestep_spacing="trailing"),
    "dpm 3": lambda: diffusers.DPMSolverMultistepScheduler(**SD, timestep_spacing="trailing", solver_order=3),
    "euler, karras": lambda: diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=True),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="leading"),
    "euler, trailing": lambda: diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="trailing"),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**SD, timestep_spacing="trailing"),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**SD, timestep_spacing="trailing"),
    "v": lambda: diffusers.DDIMScheduler(
        **SD, clip_sample=False, set_alpha_to_one=True, prediction_type="v_prediction"
    ),
    "v, no image at the end": lambda: diffusers.DDIMScheduler(
        **SD,
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
}


OTHERS = (
    "ddim to the clean image",
    "pndm to the clean image",
    "dpm 3",
    "euler, karras",
    "euler, trailing",
    "heun",
    "v, no image at the end",
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in OTHERS)) for n in SCHEDULERS])
def test_the_same_prompts_and_noise_give_the_same_images(stable, name):
    ours, noise = stable.rescheduled(SCHEDULERS[name]()), noise_of(3)
    for steps in (4, 20):
        theirs = their_images(stable.theirs, noise, PROMPTS, steps=steps, negative_prompt=NEGATIVE)
        made = ours.sample(3, text=PROMPTS, negative_text=NEGATIVE, noise=noise, steps=steps, batch_size=3)
        assert_same_images(made, theirs)


def test_what_is_asked_for_counts(stable):
    ours, noise = stable.rescheduled(SCHEDULERS["ddim"]()), noise_of(3)

    def made(**request):
        return ours.sample(3, noise=noise, steps=4, **request).astype(int)

    assert inspect.signature(type(stable.theirs).__call__).parameters["guidance_scale"].default == 7.5
    plain = made(text=PROMPTS, negative_text=NEGATIVE)
    for other in (
        dict(text=PROMPTS[::-1], negative_text=NEGATIVE),
        dict(text=PROMPTS, negative_text=NEGATIVE[::-1]),
        dict(text=PROMPTS, negative_text=NEGATIVE, guidance_scale=7.0),
    ):
        assert (np.abs(made(**other) - plain)[[0, 2]] > 1).mean() > 0.2, other


@pytest.mark.parametrize(("height", "width"), [(24, 16), pytest.param(8, 32, marks=pytest.mark.slow)])
def test_another_size(stable, height, width):
    ours = stable.rescheduled(SCHEDULERS["ddim"]())
    noise = noise_of(2, height // 2, width // 2)
    theirs = their_images(stable.theirs, noise, PROMPTS[:2], steps=5, guidance_scale=3.0)
    made = ours.sample(
        2, text=PROMPTS[:2], noise=noise, steps=5, guidance_scale=3.0, height=height, width=width, batch_size=2
    )
    assert_same_images(made, theirs)


def test_a_solver_with_leading_leaves_out_the_cleanest_step(stable):
    # n of theirs are the first n of n + 1 steps; from there both go to the clean level at once, which is x_0.
    ours = stable.rescheduled(diffusers.DPMSolverMultistepScheduler(**SD, timestep_spacing="leading"))
    noise = noise_of(2)
    theirs = their_images(stable.theirs, noise, PROMPTS[:2], steps=9)
    _, frames = ours.sample(2, text=PROMPTS[:2], noise=noise, steps=10, num_frames=10)
    assert_same_images(frames.x_0[-2], theirs)


@pytest.fixture(scope="module")
def our_xl(xl):
    return loading.load(str(xl.folder))


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("negative", [None, "blurry"])
def test_stable_diffusion_xl(xl, our_xl, scale, negative):
    ours, noise = our_xl, noise_of(2)
    theirs = their_images(
        xl.theirs, noise, PROMPTS[:2], steps=6, guidance_scale=scale, negative_prompt=negative and [negative] * 2
    )
    made = ours.sample(2, text=PROMPTS[:2], negative_text=negative, noise=noise, steps=6, guidance_scale=scale)
    assert_same_images(made, theirs)


@pytest.mark.slow
def test_stable_diffusion_xl_of_another_size(xl, our_xl):
    ours, noise = our_xl, noise_of(2, 4, 12)
    theirs = their_images(xl.theirs, noise, PROMPTS[:2], steps=6, negative_prompt=NEGATIVE[:2])
    made = ours.sample(2, text=PROMPTS[:2], negative_text=NEGATIVE[:2], noise=noise, steps=6, height=8, width=24)
    assert_same_images(made, theirs)


def test_classes(tmp_path, monkeypatch):
    theirs, noise = pipeline_folders.dit(tmp_path), noise_of(3, 4, 4)
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: nchw(noise))
    expected = theirs([0, 7, 999], num_inference_steps=10, output_type="np").images
    ours = loading.load(str(tmp_path / "dit"))
    assert ours.config.guidance_scale == 4 and ours.variance_type == "learned_range"
    made = ours.sample(3, labels=[0, 7, 999], noise=noise, steps=10)
    assert_same_images(made, np.round(expected * 255))


class Mean(NamedTuple):
    """The ancestral sampler without the noise of its steps."""

    def init(self, x, num_steps):
        return ()

    def step(self, denoise_fn, level_t, level_s, x, carry, keys):
        prediction = denoise_fn(x, level_t)
        noise = jnp.zeros_like(x)
        x = ancestral_step(prediction, x_t=x, level_t=level_t, level_s=level_s, noise=noise)
        return Step(x, prediction.x_0, ())


@pytest.mark.parametrize("clips", [True, False])
def test_pixels(tmp_path, monkeypatch, clips):
    scheduler = diffusers.DDPMScheduler(clip_sample=clips, variance_type="fixed_large")
    theirs, noise = pipeline_folders.pixels(tmp_path, scheduler), noise_of(3, channels=3)
    monkeypatch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", lambda *_, **__: nchw(noise))
    nothing = lambda shape, **_: torch.zeros(shape)  # noqa: E731
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", nothing)
    expected = theirs(batch_size=3, num_inference_steps=20, output_type="np").images
    ours = loading.load(str(tmp_path / "ddpm"))
    assert ours.sampler.variance_type == "fixed_large"
    made = ours.sample(3, noise=noise, steps=20, sampler=Mean())
    assert_same_images(made, np.round(expected * 255))


def test_images_from_images(stable, monkeypatch):
    # Their encoder draws: with no variance it gives the mean, as ours. Noise is added at the same step.
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**stable.theirs.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    ours = stable.rescheduled(SCHEDULERS["ddim"]())
    theirs.scheduler = stable.theirs.scheduler
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    noise = noise_like(fold_keys(image_keys(5, jnp.arange(2)), 0), jnp.zeros((2, 8, 8, 4)))
    module = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: nchw(noise))
    monkeypatch.setattr(f"{module}.retrieve_latents", lambda output, **_: output.latent_dist.mode())
    for strength in (0.3, 0.8):
        expected = theirs(
            PROMPTS[:2],
            nchw(images).float() / 255,
            strength=strength,
            num_inference_steps=10,
            negative_prompt=NEGATIVE[:2],
            output_type="np",
        ).images
        made = edit(ours, images, strength, seed=5, steps=10, text=PROMPTS[:2], negative_text=NEGATIVE[:2])
        assert_same_images(made, np.round(expected * 255))
