"""What a pipeline is told: the kind of image, how to sample, and how strongly to guide."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marble.diffusion import NoiseSchedule
from marble.errors import InputError
from marble.sampling import guidance, levels
from marble.sampling.grid import TimestepSpacing
from marble.typing import Array, Level

MOST_SCALE = 1e6
"""Above it float32 has no digits left for the image itself."""


class ImageSpec(NamedTuple):
    """What the data set says about its images."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    levels: int
    """How many values a pixel can take."""


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
    """1 is the model as it is; more goes further from no label, or from the guide, towards its prediction."""
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
    batch_size: int = 64
    """Images in one call of the compiled sampler; a last, smaller batch is padded to it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"sampling.batch_size={self.batch_size} must be at least 1")
        ratio = self.dynamic_thresholding_ratio
        if ratio is not None and not 0 < ratio <= 1:
            raise InputError(f"sampling.dynamic_thresholding_ratio={ratio} must be above 0 and at most 1")
        self.guidance()

    def levels(self, schedule: NoiseSchedule, num_steps: int, *, length: int | None = None) -> Level:
        """The grid of so many steps, padded to length; see ``marble.sampling.levels``."""
        return levels(
            schedule,
            num_steps,
            self.timestep_spacing,
            steps_offset=self.steps_offset,
            rho=self.rho,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            length=length,
        )

    def guidance(
        self,
        scale: float | None = None,
        interval: Sequence[float] | None = None,
        rescale: float | None = None,
    ) -> "Guidance":
        """The numbers of guidance, checked; None is the config's."""
        scale = self.guidance_scale if scale is None else scale
        interval = self.guidance_interval if interval is None else interval
        rescale = self.guidance_rescale if rescale is None else rescale
        if not abs(scale) < MOST_SCALE:
            raise InputError(f"guidance_scale={scale} must be a number below {MOST_SCALE:g}")
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
            raise InputError(
                f"guidance_interval={tuple(interval)} must be two noise levels sigma / alpha, low and high"
            )
        if not 0 <= rescale <= 1:
            raise InputError(f"guidance_rescale={rescale} must be between 0 and 1")
        return Guidance(*(np.float32(x) for x in (scale, *(interval or guidance.NO_INTERVAL), rescale)))


class Guidance(NamedTuple):
    """The numbers of guidance, traced: other values are the same program."""

    scale: Array
    low: Array
    high: Array
    rescale: Array

    def check(self, *, has_origin: bool) -> None:
        """InputError where something is to be guided and there is nothing to go away from, no null class or guide."""
        plain = {"scale": (self.scale, 1), "interval": ((self.low, self.high), guidance.NO_INTERVAL)}
        for name, (value, unguided) in {**plain, "rescale": (self.rescale, 0)}.items():
            if value != unguided and not has_origin:
                shown = ",".join(f"{number:g}" for number in np.atleast_1d(value))
                raise InputError(
                    f"guidance_{name}={shown} needs a model that was trained with and without labels "
                    "(training.label_dropout), or a guide"
                )
