"""The objective of consistency models: what one way to the data says of its end is the same everywhere along it.

(Song et al. 2023; Song & Dhariwal 2024.) Of two neighbours on a way, the noisier has to say the x_0 that the cleaner
says, and next to the data that is the data. With a teacher the neighbour is where its ODE goes (distillation); without
one it has the same noise (training), which is right in the mean as neighbours come near. They come nearer while a run
goes on: the grid of noise is of 10 intervals at first, and is divided again and again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from marble.conditioning import Conditioner
from marble.data.preprocess import example_keys
from marble.diffusion import NoiseSchedule, denoiser
from marble.diffusion.distillation import bent, num_scales, place_of, pseudo_huber
from marble.errors import InputError
from marble.objectives.diffusion import Diffusion
from marble.objectives.distilled import Distilled
from marble.objectives.draws import DrawOfT
from marble.sampling import noise_like
from marble.sampling.ddim import ddim_step, step_along
from marble.sampling.grid import noise_bounds
from marble.schema import Section
from marble.training.state import Memory
from marble.typing import Array, Batch, Context, DenoiseFn, Level


@dataclasses.dataclass(frozen=True)
class ConsistencyWords:
    """The section ``distillation`` of a config of consistency models."""

    teacher: bool = True
    """Whether ``config.init_from`` teaches; without, the data alone do, and it is no more than a beginning."""
    guidance_scale: float = 1.0
    """How the teacher is guided away from the null context; 1 is not."""
    first_scales: int = 10
    """Into how many intervals the noise is divided at first, and ``last_scales`` at the end."""
    last_scales: int = 1280

    def __post_init__(self) -> None:
        if not 1 <= self.first_scales <= self.last_scales:
            raise InputError(
                f"distillation.first_scales={self.first_scales} must be at least 1, and at most "
                f"last_scales={self.last_scales}"
            )
        if self.guidance_scale != 1 and not self.teacher:
            raise InputError(
                f"distillation.guidance_scale={self.guidance_scale} guides a teacher, and teacher=False is none"
            )


class StepsMade(NamedTuple):
    """How many steps a run has made: what its grid of noise depends on."""

    step: Array

    def updated(self) -> Self:
        """One more."""
        return StepsMade(self.step + 1)


@dataclasses.dataclass(frozen=True)
class Consistency(Distilled):
    """A consistency model's."""

    num_steps: int = 1
    """Of the training."""

    words_of: ClassVar[type] = ConsistencyWords
    sections: ClassVar[Mapping[str, Section]] = {
        **Diffusion.sections,
        "distillation": Section(constructors=(ConsistencyWords,), is_optional=True),
    }

    @classmethod
    def followed(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config that samples, where nothing is said, in one step of a consistency model."""
        told = {"sampler": "consistency", "timestep_spacing": "trailing", "num_steps": 1}
        return super().followed({**config, "sampling": {**told, **config.get("sampling", {})}})

    @classmethod
    def build(cls, reading: Any, given: Any) -> "Consistency":
        """The objective of a config; InputError where its words don't go together."""
        return dataclasses.replace(super().build(reading, given), num_steps=given.training.num_steps)

    @property
    def has_teacher(self) -> bool:
        """Whether there is one."""
        return self.words.teacher

    def loss_history(self) -> Memory:
        """The number of steps that were made."""
        return StepsMade(jnp.zeros((), jnp.int32))

    def loss(
        self,
        base: Any,
        conditioner: Conditioner,
        params: Any,
        batch: Batch,
        key: Array,
        history: StepsMade | None = None,
        *,
        train: bool,
    ) -> tuple[Array, dict[str, Any]]:
        """How far two neighbours' answers are apart, over their distance; without a history on the last grid."""
        draw = DrawOfT(self.training.timestep_sampling, self.schedule.num_train_timesteps, self.batch_size)
        t_key, noise_key, context_key, dropout_key = jax.random.split(key, 4)
        t, importance = draw(t_key, batch, None)
        scales = self.words.last_scales if history is None else self._scales(history.step)
        noisy, clean, is_data = neighbours(self.schedule, t, scales)
        x_0 = batch["image"]
        noise = noise_like(example_keys(noise_key, batch), x_0)
        x_t, x_s = (a.alpha * x_0 + a.sigma * noise for a in (level.like(x_0) for level in (noisy, clean)))
        context = conditioner.context(batch, context_key, train=train)
        end = x_0
        if self.has_teacher:
            x_s, end = heun_step(self.teacher(base, conditioner), x_t, noisy, clean, context)
        apply = self.student(params, batch, dropout_key, train=train)
        said_fn = denoiser(apply, self.schedule, prediction_type=self.config.prediction_type)
        wanted = jnp.where(is_data.reshape(-1, *[1] * (x_0.ndim - 1)), end, said_fn(x_s, clean, context).x_0)
        error = said_fn(x_t, noisy, context).x_0 - jax.lax.stop_gradient(wanted)
        distance = noisy.sigma / noisy.alpha - jnp.where(is_data, 0.0, clean.sigma / clean.alpha)
        losses = pseudo_huber(error) / distance
        metrics = draw.metrics(batch, t, importance, losses, None)
        return losses.mean(), metrics if history is None else {**metrics, "draws": {}}

    def _scales(self, step: Array) -> Array:
        return num_scales(step, self.num_steps, self.words.first_scales, self.words.last_scales)


def neighbours(schedule: NoiseSchedule, t: Array, scales: int | Array) -> tuple[Level, Level, Array]:
    """The ends (noisier, cleaner) [b] of the interval of the grid in which t [b] is, and whether the cleaner is data.

    The grid divides the schedule's sigma / alpha into scales intervals, bent (Karras et al. 2022); its lowest level is
    the data. There the cleaner level that is given is the schedule's least, for a network to be asked at.
    """
    low, high = noise_bounds(schedule, None, None)
    level = schedule.level(t)
    interval = jnp.minimum(jnp.floor(place_of(level.sigma / level.alpha, low, high) * scales), scales - 1)
    noisy, clean = (schedule.level_at(-2 * jnp.log(bent((interval + i) / scales, low, high))) for i in (1, 0))
    return noisy, clean, interval == 0


def heun_step(teacher: DenoiseFn, x_t: Array, level_t: Level, level_s: Level, context: Context) -> tuple[Array, Array]:
    """(x_s, x_0): a step of Heun's along the teacher's ODE, and where one of Euler's to the data ends; constants.

    (Song et al. 2023, algorithm 2.) x_t is [b ...], levels one an image.
    """
    first = teacher(x_t, level_t, context)
    x_s = ddim_step(first, level_t=level_t, level_s=level_s)
    mean = 0.5 * (first.eps + teacher(x_s, level_s, context).eps)
    x_s = step_along(mean, first, level_t=level_t, level_s=level_s)
    return jax.lax.stop_gradient((x_s, first.x_0))
