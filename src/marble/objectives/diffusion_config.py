"""What a config says of diffusion beside schedule and weighting, and which words go together."""

import dataclasses
import logging
from typing import Any

import jax.numpy as jnp

from marble.diffusion import NoiseSchedule, PredictionType, Schedule, rescale_zero_terminal_snr, weighting
from marble.diffusion.prediction import coefficients
from marble.diffusion.process import VarianceType
from marble.diffusion.schedules import MOST_IMAGE, image_left
from marble.diffusion.weighting import Weighting
from marble.errors import InputError
from marble.objectives.draws import TimestepSampling

logger = logging.getLogger(__name__)

FIXED = ("fixed_small", "fixed_large")
"""The variance types that are no part of training."""


@dataclasses.dataclass(frozen=True)
class DiffusionTrainingConfig:
    """What the section ``training`` has for diffusion models alone."""

    timestep_sampling: TimestepSampling = "uniform"
    """How t is drawn: alike for all, evenly over a batch, or more often where the loss is large."""
    self_conditioning: bool = False
    """Whether half of the images come with the model's own estimate of x_0, as all do in sampling."""


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """The section ``diffusion``: what is predicted and trained."""

    prediction_type: PredictionType = "eps"
    variance_type: VarianceType = "fixed_small"
    """Of the reverse step in training: what the weighting elbo reads, or a learned one, which doubles the outputs."""
    rescale_betas_zero_snr: bool = False
    """Whether the schedule is stretched so that it ends without any image (Lin et al. 2024)."""

    @property
    def learns_variance(self) -> bool:
        """Whether the network has a second output, about the variance."""
        return self.variance_type not in FIXED

    def stretched(self, schedule: Any, name: str) -> Any:
        """The schedule of that name, rescaled if it is to be; InputError for one that has no steps."""
        if not self.rescale_betas_zero_snr:
            return schedule
        if not isinstance(schedule, Schedule):
            raise InputError(
                f"diffusion.rescale_betas_zero_snr is for schedules of steps: beta_schedule={name!r} has none"
            )
        return rescale_zero_terminal_snr(schedule)

    def check_steps(self, schedule: Schedule, weighting_fn: Weighting) -> None:
        """InputError where prediction, variance and weighting don't suit a schedule of steps."""
        last = schedule.level(schedule.num_train_timesteps - 1)
        a, b = coefficients(self.prediction_type, last, schedule.previous_level(last.t))
        determinant = last.alpha * b - last.sigma * a
        if not (jnp.isfinite(determinant) and determinant):
            raise InputError(
                f"diffusion.prediction_type={self.prediction_type!r} says nothing of the image at the last step of "
                "this schedule, which is all noise: set it to v or x_0, or take a schedule that ends with some image"
            )
        if self.learns_variance and weighting_fn is weighting.elbo:
            raise InputError(
                "diffusion.weighting='elbo' is for fixed variances, and the learned "
                f"variance_type={self.variance_type!r} brings the bound's terms itself: set weighting to simple"
            )

    def check_continuous(self, weighting_fn: Weighting, timestep_sampling: TimestepSampling) -> None:
        """InputError where a word needs steps and there are none."""
        needs_steps = {
            f"diffusion.prediction_type={self.prediction_type!r}": self.prediction_type == "posterior_mean",
            f"diffusion.variance_type={self.variance_type!r}": self.learns_variance
            or (weighting_fn is weighting.elbo and self.variance_type != "fixed_small"),
            f"training.timestep_sampling={timestep_sampling!r}": timestep_sampling == "importance",
        }
        for word, is_needed in needs_steps.items():
            if is_needed:
                raise InputError(f"{word} needs a diffusion.beta_schedule of steps, such as linear")

    def check_sampler(self, sampler: Any) -> None:
        """InputError where the sampler reads a variance that was not learned."""
        wanted = getattr(sampler, "variance_type", "fixed_small")
        if wanted not in FIXED and wanted != self.variance_type:
            raise InputError(
                f"sampling.variance_type={wanted!r} needs a model trained with diffusion.variance_type={wanted!r}, "
                f"not {self.variance_type!r}"
            )


def warn_of_image_left(schedule: NoiseSchedule, num_steps: int) -> None:
    """A warning, with what to change, for a run of num_steps on a schedule that ends with much of the image."""
    total = schedule.num_train_timesteps
    if total is not None and num_steps < total < 20:
        return  # a trial of the parts, as the variant smoke is
    left = image_left(schedule.level(total - 1 if total else 1.0))
    if left <= MOST_IMAGE:
        return
    remedy = "lower its log_snr_min, or raise t_max"
    if total is not None:
        factor = 1000 / total
        scaled = 1 < factor < 1 / max(schedule.betas)
        betas = f"multiply its betas by {factor:g}, for {total} steps in place of 1000" if scaled else "raise its betas"
        remedy = f"{betas}; or set rescale_betas_zero_snr=True with prediction_type='v', or beta_schedule"
        remedy += "='squaredcos_cap_v2'"
    logger.warning(
        "the noise schedule ends with %.0f %% of the image, and sampling begins there with pure noise, which the model "
        "never sees in training: %s",
        100 * left,
        remedy,
    )


def check_learned_schedule(weighting_fn: Weighting, *, self_conditioning: bool) -> None:
    """InputError where the words don't suit a learned schedule, whose loss is the bound."""
    if weighting_fn is not weighting.elbo or self_conditioning:
        raise InputError(
            "a learned diffusion.beta_schedule is trained by the bound: set diffusion.weighting='elbo' and leave "
            "training.self_conditioning False"
        )


def check_words(
    config: DiffusionConfig,
    schedule: NoiseSchedule | Any,
    weighting_fn: Weighting,
    *,
    timestep_sampling: TimestepSampling,
    self_conditioning: bool,
    sampler: Any,
) -> None:
    """InputError, with what to change, where the words of an experiment don't go together.

    schedule may be the module of a learned one.
    """
    config.check_sampler(sampler)
    if isinstance(schedule, Schedule):
        config.check_steps(schedule, weighting_fn)
        return
    config.check_continuous(weighting_fn, timestep_sampling)
    if not hasattr(schedule, "num_train_timesteps"):
        check_learned_schedule(weighting_fn, self_conditioning=self_conditioning)
