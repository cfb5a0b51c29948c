"""How a pipeline samples: the section ``sampling`` of a config."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from marble.diffusion import NoiseSchedule
from marble.errors import InputError
from marble.pipelines.guidance import Guidance
from marble.sampling import DDIM, PNDM, Sampler, guidance, levels
from marble.sampling.grid import TimestepSpacing
from marble.typing import DenoiseFn, Level

LONGEST_GRID = 1000
"""Steps that one program has room for where time is continuous; more are another program."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a pipeline samples."""

    clip_sample: bool = True
    """Clips each predicted x_0 to [-1, 1], the range of images."""
    dynamic_thresholding_ratio: float | None = None
    """Clips it to this quantile of its own size instead, and divides by that, as strong guidance needs."""
    use_clipped_model_output: bool = False
    """Derives eps again from the x_0 that was clipped, for samplers that read it, such as ddim."""
    guidance_scale: float = 1.0
    """1 is the model as it is; more goes further from no context, or from the guide, towards its prediction."""
    guidance_interval: tuple[float, float] | None = None
    """The noise levels, lowest and highest sigma / alpha, that are guided; None is all."""
    guidance_rescale: float = 0.0
    """The share, 0 to 1, of the way back to the deviation that the prediction had before guidance."""
    num_steps: int | None = None
    """None is every step of training."""
    timestep_spacing: TimestepSpacing = "linspace"
    steps_offset: int = 0
    """Added to the steps of the spacing leading."""
    rho: float = 7.0
    """How the spacing karras is bent."""
    sigma_min: float | None = None
    """The least sigma / alpha of the spacings karras and log_snr, and sigma_max the most; None is the schedule's."""
    sigma_max: float | None = None
    set_alpha_to_one: bool = True
    """Whether the last step of ddim and pndm ends at the image itself; if not, at the level of step 0, as Stable
    Diffusion's do. Other samplers end at the image."""
    batch_size: int = 64
    """Images in one call of the compiled sampler; a last, smaller batch is padded to it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"sampling.batch_size={self.batch_size} must be at least 1")
        ratio = self.dynamic_thresholding_ratio
        if ratio is not None and not 0 < ratio <= 1:
            raise InputError(f"sampling.dynamic_thresholding_ratio={ratio} must be above 0 and at most 1")
        self.guidance()

    def levels(
        self, schedule: NoiseSchedule, num_steps: int, *, length: int | None = None, sampler: Sampler | None = None
    ) -> Level:
        """The grid of so many steps, padded to length, for a sampler; see ``marble.sampling.levels``."""
        return levels(
            schedule,
            num_steps,
            self.timestep_spacing,
            steps_offset=self.steps_offset,
            rho=self.rho,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            set_alpha_to_one=self.set_alpha_to_one or not isinstance(sampler, DDIM | PNDM),
            length=length,
        )

    def guidance(
        self,
        scale: float | None = None,
        interval: Sequence[float] | None = None,
        rescale: float | None = None,
        classifier: float | None = None,
    ) -> Guidance:
        """The numbers of guidance, checked; None is the config's."""
        return Guidance.of(
            self.guidance_scale if scale is None else scale,
            self.guidance_interval if interval is None else interval,
            self.guidance_rescale if rescale is None else rescale,
            1.0 if classifier is None else classifier,
        )

    def grid(self, schedule: NoiseSchedule, num_steps: int, sampler: Sampler | None = None) -> Level:
        """``levels``, padded so that other numbers of steps are the same program."""
        length = schedule.num_train_timesteps or max(num_steps, LONGEST_GRID)
        return self.levels(schedule, num_steps, length=length, sampler=sampler)

    def clipped(self, denoise_fn: DenoiseFn) -> DenoiseFn:
        """The predictions within the range of images, as the config says."""
        keep_eps = not self.use_clipped_model_output
        if self.dynamic_thresholding_ratio is not None:
            ratio = self.dynamic_thresholding_ratio
            return guidance.dynamic_threshold(denoise_fn, quantile=ratio, keep_eps=keep_eps)
        return guidance.static_threshold(denoise_fn, keep_eps=keep_eps) if self.clip_sample else denoise_fn


def traced_settings(sampler: Sampler, eta: float | None = None) -> dict[str, np.float32]:
    """The sampler's numbers, which are traced: other values are the same program. eta replaces its own."""
    fields = getattr(sampler, "_fields", ())
    own = {name: getattr(sampler, name) for name in fields if isinstance(getattr(sampler, name), float)}
    if eta is not None:
        if "eta" not in own:
            raise InputError(f"eta={eta} given, but the sampler {type(sampler).__name__} has none: use ddim")
        if not 0 <= eta <= 1:
            raise InputError(f"eta={eta} must be between 0 and 1")
        own["eta"] = eta
    return {name: np.float32(value) for name, value in own.items()}
