"""Writes diffusers_trajectories.npz beside itself: what diffusers' schedulers make of given noise.

    pip install torch diffusers==0.42.1 && python tests/reference/make_diffusers_trajectories.py

Data of two Gaussians stand in for images, and their exact denoiser for a network, so that nothing is learned or drawn:
the initial noise and that of each step are in the file too. ``tests/sampling/test_diffusers.py`` reads it, and needs
neither torch nor diffusers. Keys are ``scheduler/spacing/reading/steps``; each trajectory has the state after every
step, as x = alpha x_0 + sigma eps, and the timesteps at which the model was asked.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.schedulers import scheduling_ddpm

MEAN, VARIANCE = 0.5, 0.04
SHAPE = (2, 2, 3)
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SPACINGS = ("linspace", "leading", "trailing")
READINGS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

rng = np.random.default_rng(0)
X_T = rng.normal(size=SHAPE)
NOISE = rng.normal(size=(20, *SHAPE))


def model(x: torch.Tensor, t: float, reading: str) -> torch.Tensor:
    """The exact prediction for x_0 ~ (N(MEAN, VARIANCE) + N(-MEAN, VARIANCE)) / 2, in any reading."""
    alpha, sigma = ALPHAS_CUMPROD[int(t)] ** 0.5, (1 - ALPHAS_CUMPROD[int(t)]) ** 0.5
    total = alpha**2 * VARIANCE + sigma**2
    x_0 = (alpha * VARIANCE * x + MEAN * sigma**2 * torch.tanh(alpha * MEAN * x / total)) / total
    eps = (x - alpha * x_0) / sigma
    return {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0}[reading]


def run(scheduler, reading: str, num_steps: int, *, stride_steps: int | None = None, noisy: bool = False, **options):
    """(timesteps, trajectory). stride_steps: the N for which diffusers' stride T // N is the one between timesteps."""
    scheduler.set_timesteps(num_steps)
    if stride_steps is not None:
        scheduler.num_inference_steps = stride_steps
    in_sigmas = hasattr(scheduler, "is_scale_input_called") or type(scheduler).__name__.startswith("Heun")
    x = torch.tensor(X_T)
    if in_sigmas:
        x = x * (scheduler.sigmas[0].double() ** 2 + 1) ** 0.5
    states = []
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.tensor(NOISE[i % len(NOISE)])
        scheduling_ddpm.randn_tensor = lambda *_, noise=noise, **__: noise
        output = model(scheduler.scale_model_input(x, t), t, reading)
        extra = {"variance_noise": noise} if noisy else {}
        x = scheduler.step(output, t, x, **options, **extra).prev_sample.double()
        sigma = scheduler.sigmas[scheduler.step_index].double() if in_sigmas else 0.0
        states.append((x / (1 + sigma**2) ** 0.5).numpy())
    return np.array([float(t) for t in scheduler.timesteps]), np.stack(states)


def cases():
    """(name, scheduler, spacing, reading, number of steps, options of ``run``) of every trajectory."""
    for spacing in SPACINGS:
        for reading, prediction_type in READINGS.items():
            common = {**SCHEDULE, "timestep_spacing": spacing, "prediction_type": prediction_type}
            unclipped = {**common, "clip_sample": False}
            # DDIM's linspace of 10 steps goes by 111 = 1000 // 9, not by 1000 // 10: see test_diffusers.py.
            stride = {"stride_steps": 9 if spacing == "linspace" else None}
            for variance in ("fixed_small", "fixed_large"):
                ddpm = diffusers.DDPMScheduler(**unclipped, variance_type=variance)
                yield f"ddpm_{variance}", ddpm, spacing, reading, 10, {}
            for eta in (0, 1):
                options = {**stride, "noisy": eta > 0, "eta": float(eta)}
                yield f"ddim_{eta}", diffusers.DDIMScheduler(**unclipped), spacing, reading, 10, options
            if reading == "eps":
                for skip in (False, True):
                    if spacing == "linspace" and not skip:
                        continue  # half of 111 is no step
                    pndm = diffusers.PNDMScheduler(**common, skip_prk_steps=skip, set_alpha_to_one=True)
                    yield f"pndm_{'plms' if skip else 'prk'}", pndm, spacing, reading, 10, stride
            yield "euler", diffusers.EulerDiscreteScheduler(**common), spacing, reading, 10, {}
            yield "heun", diffusers.HeunDiscreteScheduler(**common), spacing, reading, 10, {}
            for order in (2, 3):
                for num_steps in (10, 20) if reading == "eps" else (10,):
                    solver = diffusers.DPMSolverMultistepScheduler(**common, solver_order=order)
                    yield f"dpm_solver_{order}m", solver, spacing, reading, num_steps, {}
            sde = diffusers.DPMSolverMultistepScheduler(**common, algorithm_type="sde-dpmsolver++")
            yield "dpm_solver_sde", sde, spacing, reading, 10, {"noisy": True}
            for order in (1, 2, 3):
                for variant in ("bh1", "bh2"):
                    unipc = diffusers.UniPCMultistepScheduler(**common, solver_order=order, solver_type=variant)
                    yield f"unipc_{order}_{variant}", unipc, spacing, reading, 10, {}
    # Seven steps don't divide 1000: DDIM, as it is, and DDPM.
    common = {**SCHEDULE, "timestep_spacing": "trailing", "clip_sample": False}
    yield "ddim_as_is", diffusers.DDIMScheduler(**common), "trailing", "eps", 7, {"eta": 0.0}
    yield "ddpm_fixed_small", diffusers.DDPMScheduler(**common, variance_type="fixed_small"), "trailing", "eps", 7, {}


if __name__ == "__main__":
    arrays = {"x_T": X_T, "noise": NOISE, "mean": MEAN, "variance": VARIANCE}
    for name, scheduler, spacing, reading, num_steps, options in cases():
        key = f"{name}/{spacing}/{reading}/{num_steps}"
        arrays[f"{key}/t"], arrays[key] = run(scheduler, reading, num_steps, **options)
    small = {k: np.asarray(v, np.int16 if k.endswith("/t") else np.float32) for k, v in arrays.items()}
    target = Path(__file__).with_name("diffusers_trajectories.npz")
    np.savez_compressed(target, **small)
    print(f"{target}: {len(arrays)} arrays, {target.stat().st_size} bytes")
