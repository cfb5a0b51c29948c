"""The objective of progressive distillation: one step of the student for two of its teacher's (Salimans & Ho 2022).

The student's grid has N levels, its teacher's 2N. A teacher that goes two steps of DDIM from one level of the student's
to the next has been somewhere at which one step would have ended too: that x_0 is what the student learns. A run halves
the steps once; ``marble distill`` makes run after run.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from marble.conditioning import Conditioner
from marble.data.preprocess import example_keys
from marble.diffusion import PredictionType, denoising_loss
from marble.diffusion.distillation import landing
from marble.diffusion.prediction import network_output, split_output
from marble.errors import InputError
from marble.objectives.diffusion import Diffusion
from marble.objectives.distilled import Distilled
from marble.objectives.draws import DrawOfT
from marble.sampling import noise_like
from marble.sampling.ddim import ddim_step
from marble.schema import Section
from marble.typing import Array, Batch, Context, DenoiseFn, Level, Prediction, coefficient_like


@dataclasses.dataclass(frozen=True)
class ProgressiveWords:
    """The section ``distillation`` of a config of progressive distillation."""

    num_steps: int
    """Of the student; its teacher is shown in twice as many."""
    guidance_scale: float = 1.0
    """How the teacher is guided away from the null context; 1 is not."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise InputError(f"distillation.num_steps={self.num_steps} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Progressive(Distilled):
    """A student's that makes one step of its teacher's two."""

    predicts: ClassVar[tuple[PredictionType, ...]] = ("v", "x_0", "flow", "edm")
    words_of: ClassVar[type] = ProgressiveWords
    sections: ClassVar[Mapping[str, Section]] = {
        **Diffusion.sections,
        "distillation": Section(constructors=(ProgressiveWords,)),
    }

    @classmethod
    def followed(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config that samples, where nothing is said, as it was trained: DDIM in so many steps."""
        sampling = {"sampler": "ddim", "timestep_spacing": "trailing", **config.get("sampling", {})}
        sampling.setdefault("num_steps", config.get("distillation", {}).get("num_steps"))
        weighting = {"weighting": "truncated_snr", **config.get("diffusion", {})}
        return super().followed({**config, "sampling": sampling, "diffusion": weighting})

    def check(self) -> None:
        """InputError for a grid whose every other level is not the student's."""
        super().check()
        if self.sampling.timestep_spacing != "trailing":
            raise InputError(
                f"sampling.timestep_spacing={self.sampling.timestep_spacing!r}: of the spacing 'trailing' alone the "
                "grid of half as many steps has every other level: set it to that"
            )
        self.levels()

    def levels(self) -> Level:
        """The teacher's levels [2N + 1], the student's every other one."""
        return self.sampling.levels(self.schedule, 2 * self.words.num_steps)

    def loss(
        self,
        base: Any,
        conditioner: Conditioner,
        params: Any,
        batch: Batch,
        key: Array,
        history: Any = None,
        *,
        train: bool,
    ) -> tuple[Array, dict[str, Any]]:
        """The error of the student's x_0 at a level of its own, beside that at which its teacher's two steps end."""
        steps, levels = self.words.num_steps, self.levels()
        draw = DrawOfT(self.training.timestep_sampling, steps, self.batch_size)
        t_key, noise_key, context_key, dropout_key = jax.random.split(key, 4)
        n, importance = draw(t_key, batch, history)  # 0 is the cleanest of the student's steps
        x_0, place = batch["image"], 2 * (steps - 1 - n)
        level, between, level_s = (jax.tree.map(lambda a, i=i: jnp.asarray(a)[place + i], levels) for i in range(3))
        noise = noise_like(example_keys(noise_key, batch), x_0)
        x_t = coefficient_like(level.alpha, x_0) * x_0 + coefficient_like(level.sigma, x_0) * noise
        context = conditioner.context(batch, context_key, train=train)
        teacher = self.sampling.clipped(self.teacher(base, conditioner))
        target = two_steps(teacher, x_t, level, between, level_s, context)
        apply = self.student(params, batch, dropout_key, train=train)
        kind = self.config.prediction_type
        output, _ = split_output(network_output(apply, x_t, level, context, kind=kind), x_t)
        time = level.t if self.schedule.num_train_timesteps else (n + 1) / steps  # of the spacing trailing
        weight = self.weighting(self.schedule, time)
        losses = denoising_loss(output, kind, x_0=target.x_0, noise=target.eps, level=level, weight=weight)
        return losses.mean(), draw.metrics(batch, n, importance, losses, history)


def two_steps(
    teacher: DenoiseFn, x_t: Array, level_t: Level, between: Level, level_s: Level, context: Context
) -> Prediction:
    """The prediction with which one step of DDIM ends where two of the teacher's do, a constant to the gradient.

    (Salimans & Ho 2022, algorithm 2.) x_t is [b ...], levels one an image.
    """
    x = ddim_step(teacher(x_t, level_t, context), level_t=level_t, level_s=between)
    x = ddim_step(teacher(x, between, context), level_t=between, level_s=level_s)
    return jax.lax.stop_gradient(landing(x_t=x_t, x_s=x, level_t=level_t, level_s=level_s))
