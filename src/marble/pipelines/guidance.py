"""How strongly a pipeline is guided, and away from what."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from marble.conditioning import Conditioner
from marble.diffusion import NoiseSchedule, PredictionType
from marble.errors import InputError
from marble.sampling import guidance
from marble.typing import Array, Context, DenoiseFn, ImageSpec

MOST_SCALE = 1e6
"""Above it float32 has no digits left for the image itself."""


class Guidance(NamedTuple):
    """The numbers of guidance, traced: other values are the same program."""

    scale: Array
    low: Array
    high: Array
    rescale: Array
    classifier: Array
    """How far to go along a classifier's gradient, where there is one."""

    @classmethod
    def of(cls, scale: float, interval: Sequence[float] | None, rescale: float, classifier: float = 1.0) -> "Guidance":
        """These numbers, checked; see ``SamplingConfig``."""
        if not abs(classifier) < MOST_SCALE:
            raise InputError(f"classifier_scale={classifier} must be a number below {MOST_SCALE:g}")
        if not abs(scale) < MOST_SCALE:
            raise InputError(f"guidance_scale={scale} must be a number below {MOST_SCALE:g}")
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
            raise InputError(
                f"guidance_interval={tuple(interval)} must be two noise levels sigma / alpha, low and high"
            )
        if not 0 <= rescale <= 1:
            raise InputError(f"guidance_rescale={rescale} must be between 0 and 1")
        return cls(*(np.float32(x) for x in (scale, *(interval or guidance.NO_INTERVAL), rescale, classifier)))

    def check(self, conditioner: Conditioner, *, has_guide: bool = False) -> None:
        """InputError where something is to be guided and there is nothing to go away from, no null context or guide."""
        plain = {"scale": (self.scale, 1), "interval": ((self.low, self.high), guidance.NO_INTERVAL)}
        for name, (value, unguided) in {**plain, "rescale": (self.rescale, 0)}.items():
            if value != unguided and not (has_guide or conditioner.has_null):
                shown = ",".join(f"{number:g}" for number in np.atleast_1d(value))
                raise InputError(f"guidance_{name}={shown} needs {conditioner.null_remedy}, or a guide")

    def away_from(self, denoise_fn: DenoiseFn, guide_fn: DenoiseFn, *, prediction_type: PredictionType) -> DenoiseFn:
        """denoise_fn guided away from a weaker model."""
        guided = guidance.guided(denoise_fn, guide_fn, self.scale, interval=(self.low, self.high))
        return self._rescaled(denoise_fn, guided, prediction_type)

    def away_from_null(self, denoise_fn: DenoiseFn, null: Context, *, prediction_type: PredictionType) -> DenoiseFn:
        """denoise_fn guided away from what it says when it is told of null."""
        interval = (self.low, self.high)
        guided = guidance.classifier_free(denoise_fn, self.scale, null_context=null, interval=interval)
        return self._rescaled(denoise_fn, guided, prediction_type)

    def _rescaled(self, denoise_fn: DenoiseFn, guided_fn: DenoiseFn, prediction_type: PredictionType) -> DenoiseFn:
        kind = "x_0" if prediction_type == "posterior_mean" else prediction_type
        return guidance.rescaled(denoise_fn, guided_fn, self.rescale, prediction_type=kind)


def check_guide(schedule: NoiseSchedule, image: ImageSpec, guide: Any) -> None:
    """InputError unless the guide, a pipeline, was trained on the same images by the same schedule."""
    if not hasattr(guide, "denoise_fn"):
        raise InputError(f"a guide is a diffusion model: this one is a {type(guide).__name__}")
    ours, theirs = ((i.shape, s.num_train_timesteps) for i, s in ((image, schedule), (guide.image, guide.schedule)))
    if ours != theirs:
        raise InputError(f"the guide's images and number of steps, {theirs}, are not those of the model, {ours}")
    ends = np.array([0, (ours[1] or 2) - 1])
    if not np.allclose(schedule.level(ends).sigma, guide.schedule.level(ends).sigma):
        raise InputError("the guide was trained with another noise schedule than the model")
