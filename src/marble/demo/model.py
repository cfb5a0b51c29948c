"""What a pipeline can do, and so what there is on its page."""

import contextlib
import dataclasses
from collections.abc import Sequence

from marble.demo.limits import Limits
from marble.errors import InputError
from marble.parallel import MeshMapping
from marble.pipelines import DiffusionPipeline
from marble.pipelines.rows import fitting_batch_size

STEPS = 50
"""Steps of a drawing, where the config does not say and nobody chose."""
OWN_SAMPLER = "the model's own"
MOST_GUIDANCE = 20.0


@dataclasses.dataclass(frozen=True)
class Model:
    """A diffusion model as its page sees it."""

    pipe: DiffusionPipeline
    name: str
    samplers: Sequence[str] = ()
    """Beside its own."""
    limits: Limits = Limits()  # noqa: RUF009

    @classmethod
    def of(cls, pipe: object, name: str, samplers: Sequence[str], limits: Limits) -> "Model":
        """Of a loaded pipeline, whose batches are made no larger than a request; InputError for one without a page."""
        if not isinstance(pipe, DiffusionPipeline):
            raise InputError(f"{name} is a {type(pipe).__name__}, and the page is for diffusion models: give one")
        others = set(pipe.conditioner.requests) - {"text", "negative_text", "labels"}
        if others:
            raise InputError(f"{name} is told of {', '.join(sorted(others))}, and the page has no place for that")
        if not isinstance(pipe.mapping, MeshMapping) and len(pipe.mapping.devices) > 1:
            raise InputError(
                f"{name} was trained with parallel.mapping='pmap', and its page needs one device: let the program see "
                "one, by CUDA_VISIBLE_DEVICES=0 or TPU_VISIBLE_DEVICES=0"
            )
        pipe.config = dataclasses.replace(pipe.config, batch_size=min(pipe.config.batch_size, limits.max_images))
        return cls(pipe, name, tuple(s for s in samplers if _is_made(pipe, s)), limits)

    @property
    def batch_size(self) -> int:
        """Images in one call of its programs."""
        return fitting_batch_size(self.pipe.config.batch_size, self.pipe.mapping)

    @property
    def reads_text(self) -> bool:
        return "text" in self.pipe.conditioner.requests

    @property
    def classes(self) -> list[tuple[str, int | None]]:
        """Names and numbers of the classes that can be asked for; None is none in particular, where that is one."""
        if "labels" not in self.pipe.conditioner.requests:
            return []
        count = self.pipe.conditioner.num_classes
        names = self.pipe.class_names or [str(i) for i in range(count)]
        anything = [("any", None)] if self.pipe.conditioner.has_null else []
        return [*anything, *zip(names, range(count), strict=True)]

    @property
    def is_guided(self) -> bool:
        """Whether there is anything to go away from."""
        return self.pipe.conditioner.has_null and bool(self.pipe.conditioner.requests)

    @property
    def max_guidance(self) -> float:
        return max(MOST_GUIDANCE, self.pipe.config.guidance_scale)

    @property
    def steps(self) -> int:
        """Those of a drawing where nobody chose."""
        return min(self.pipe.config.num_steps or STEPS, self.max_steps)

    @property
    def max_steps(self) -> int:
        return min(self.limits.max_steps, self.pipe.schedule.num_train_timesteps or self.limits.max_steps)

    @property
    def about(self) -> str:
        """One line."""
        height, width, channels = self.pipe.image.shape
        told = "prompts" if self.reads_text else f"{self.pipe.conditioner.num_classes} classes" if self.classes else ""
        space = "" if self.pipe.codec.spec.shape == self.pipe.image.shape else "latent diffusion"
        grey = "grey" if channels == 1 else ""
        return " · ".join(part for part in (f"{height} × {width} pixels", grey, space, told) if part)


def _is_made(pipe: DiffusionPipeline, sampler: str) -> bool:
    """Whether there is such a sampler for this model: not all are, where the schedule is learned."""
    with contextlib.suppress(InputError):
        return pipe.sampler_of(sampler) is not None
    return False
