"""What the objectives have in common that make a model of few steps: a teacher, and which words go with them.

The network is the teacher's, or begins as it: ``config.init_from`` is the teacher. So the student is a diffusion
model like others, its loss apart.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from marble.conditioning import Conditioner
from marble.diffusion import PredictionType, denoiser
from marble.errors import InputError
from marble.objectives.denoising import bound_model
from marble.objectives.diffusion import Diffusion
from marble.objectives.objective import Given
from marble.sampling import guidance
from marble.schema import Reading
from marble.training.step import LossFn
from marble.typing import Array, Batch, Context, DenoiseFn, Level, Prediction


@dataclasses.dataclass(frozen=True)
class Distilled(Diffusion):
    """A student's. Subclasses are the three ways to one."""

    words: Any = None
    """The section ``distillation`` of a config."""

    predicts: ClassVar[tuple[PredictionType, ...]] = ("v", "flow", "edm")
    """What the network of such a student can predict: something that says x_0 where nearly all is noise."""
    words_of: ClassVar[type]
    """The class of ``words``."""

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "Distilled":
        """The objective of a config; InputError where its words don't go together."""
        built = dataclasses.replace(super().build(reading, given), words=reading.make("distillation", cls.words_of))
        name = built.config.prediction_type
        if name not in cls.predicts:
            raise InputError(
                f"diffusion.prediction_type={name!r}: a model of few steps begins where a prediction of that says "
                f"nothing of the image; it can be {' or '.join(map(repr, cls.predicts))}, and its teacher's is the same"
            )
        if built.training.self_conditioning or built.learns_schedule:
            word = "training.self_conditioning=True" if built.training.self_conditioning else "a learned schedule"
            raise InputError(f"{word} is not for distillation: leave it out")
        if built.training.timestep_sampling == "importance":
            raise InputError("training.timestep_sampling='importance' is not for distillation: leave it out")
        if built.guides_teacher and not built.conditioner.has_null:
            raise InputError(
                f"distillation.guidance_scale={built.words.guidance_scale} needs {built.conditioner.null_remedy}"
            )
        return built

    @property
    def guides_teacher(self) -> bool:
        """Whether the student learns what guidance makes of its teacher."""
        return self.words.guidance_scale != 1

    @property
    def has_teacher(self) -> bool:
        """Whether the loss reads a teacher's parameters."""
        return True

    @property
    def taught_by(self) -> nn.Module:
        """The teacher's network."""
        return self.model

    @property
    def base_shapes(self) -> Any:
        """The shapes of the teacher's parameters."""
        if not (self.has_teacher or self.adapts):
            return None
        return jax.eval_shape(lambda: self.taught_by.init(jax.random.key(0), *self.model_inputs())["params"])

    def teacher(self, base: Any, conditioner: Conditioner) -> DenoiseFn:
        """What the teacher says, guided as its student is to learn it."""
        apply = lambda x, t, context: self.taught_by.apply({"params": base}, x, t, context or None)  # noqa: E731
        return self.guided(denoiser(apply, self.schedule, prediction_type=self.config.prediction_type), conditioner)

    def guided(self, denoise_fn: DenoiseFn, conditioner: Conditioner) -> DenoiseFn:
        """A DenoiseFn with the guidance of the words, away from the null context."""
        if not self.guides_teacher:
            return denoise_fn

        def guided_fn(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
            null = conditioner.null(len(x_t))
            scale = self.words.guidance_scale
            return guidance.classifier_free(denoise_fn, scale, null_context=null)(x_t, level, context)

        return guided_fn

    def student(self, params: Any, batch: Batch, key: Array, *, train: bool) -> Callable[..., Array]:
        """The student's network, with dropout if train, the same at each call."""
        return bound_model(self.model, params, batch, key, train=train)

    def loss_of_x_0(self, base: Any, conditioner: Conditioner, *, train: bool) -> LossFn:
        """The loss of x_0 in the place of images, given the teacher's parameters."""
        return functools.partial(self.loss, base, conditioner, train=train)

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
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean loss of a batch, and its metrics; see the subclass."""
        raise NotImplementedError
