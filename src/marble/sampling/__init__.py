"""From noise to images. Start with sampler.py, the protocol and the one loop; then ancestral.py and ddim.py."""

from marble.sampling import guidance
from marble.sampling.ancestral import Ancestral
from marble.sampling.consistency import Consistency
from marble.sampling.ddim import DDIM
from marble.sampling.dpm_solver import DPMSolver, dpm_solver_2m, dpm_solver_3m, dpm_solver_sde
from marble.sampling.editing import FromImage, Inpainting
from marble.sampling.grid import karras_sigmas, levels, section_timesteps, times, timesteps
from marble.sampling.heun import Euler, Heun
from marble.sampling.ode import ODE
from marble.sampling.pndm import PNDM
from marble.sampling.predictor_corrector import PredictorCorrector
from marble.sampling.sampler import Frames, Sampler, Step, fold_keys, image_keys, noise_like, sample
from marble.sampling.unipc import UniPC

__all__ = [
    "DDIM",
    "ODE",
    "PNDM",
    "Ancestral",
    "Consistency",
    "DPMSolver",
    "Euler",
    "Frames",
    "FromImage",
    "Heun",
    "Inpainting",
    "PredictorCorrector",
    "Sampler",
    "Step",
    "UniPC",
    "dpm_solver_2m",
    "dpm_solver_3m",
    "dpm_solver_sde",
    "fold_keys",
    "guidance",
    "image_keys",
    "karras_sigmas",
    "levels",
    "noise_like",
    "sample",
    "section_timesteps",
    "times",
    "timesteps",
]
