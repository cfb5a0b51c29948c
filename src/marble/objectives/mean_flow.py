"""The objective of MeanFlow: the mean velocity of a span of the straight way, by its own derivative (Geng et al. 2025).

A network that is told t and s, the ends of a step, says how fast x goes on the mean between them; one step from noise
to data is then one call. What it has to say follows from the velocity at t, that of the data and the noise at hand or a
teacher's, and from its own derivative along the way.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from marble.conditioning import Conditioner
from marble.data.preprocess import example_keys
from marble.diffusion import PredictionType, denoiser, rectified_flow
from marble.diffusion.distillation import evened, mean_velocity
from marble.diffusion.likelihood import mean_of_image
from marble.diffusion.prediction import read
from marble.errors import InputError
from marble.objectives.diffusion import Diffusion
from marble.objectives.distilled import Distilled
from marble.objectives.draws import DrawOfT
from marble.sampling import guidance, noise_like
from marble.schema import Section
from marble.typing import Array, Batch, Context, DenoiseFn, Level, Prediction, coefficient_like

logger = logging.getLogger(__name__)

MOST_TIME_SCALE = 100.0
"""Of the times that the network is told, before a warning."""


@dataclasses.dataclass(frozen=True)
class MeanFlowWords:
    """The section ``distillation`` of a config of MeanFlow."""

    teacher: bool = False
    """Whether ``config.init_from`` says the velocity; without, the data and the noise do."""
    guidance_scale: float = 1.0
    """How the velocity is guided away from the null context's, the teacher's or the network's own; 1 is not."""
    span_share: float = 0.25
    """The share of images for which s is not t."""
    loss_power: float | None = None
    """How much the errors of a batch are made alike; 0 is not. None is 1, as in the paper, and 0 with a teacher: there
    is no noise of data in them, and made alike the smallest would count as much as the largest."""

    def __post_init__(self) -> None:
        if not 0 <= self.span_share <= 1:
            raise InputError(f"distillation.span_share={self.span_share} must be between 0 and 1")
        if self.loss_power is not None and not 0 <= self.loss_power <= 1:
            raise InputError(f"distillation.loss_power={self.loss_power} must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class MeanFlow(Distilled):
    """A network's of whole steps."""

    predicts: ClassVar[tuple[PredictionType, ...]] = ("flow",)
    words_of: ClassVar[type] = MeanFlowWords
    sections: ClassVar[Mapping[str, Section]] = {
        **Diffusion.sections,
        "diffusion": Diffusion.sections["diffusion"]._replace(
            names={**Diffusion.sections["diffusion"].names, "beta_schedule": {"rectified_flow": rectified_flow}}
        ),
        "distillation": Section(constructors=(MeanFlowWords,), is_optional=True),
    }

    @classmethod
    def followed(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config that samples, where nothing is said, in one step."""
        told = {"sampler": "ddim", "timestep_spacing": "trailing", "num_steps": 1}
        return super().followed({**config, "sampling": {**told, **config.get("sampling", {})}})

    @classmethod
    def build(cls, reading: Any, given: Any) -> "MeanFlow":
        """The objective of a config; InputError where its words don't go together."""
        built = super().build(reading, given)
        if built.adapts:
            raise InputError("lora.rank is not for objective='mean_flow', whose network is told more: leave it out")
        if built.time_scale > MOST_TIME_SCALE:
            logger.warning(
                "diffusion.time_scale=%g: what the network says changes fast by t, and a mean flow learns from that "
                "derivative: train it, and its teacher, with 10",
                built.time_scale,
            )
        return built

    @classmethod
    def told_beside(cls, network: type[nn.Module], training: Any) -> dict[str, bool]:
        """Where a step ends is told too; InputError for a network that doesn't read it."""
        if "reads_s" not in network.__dataclass_fields__:
            raise InputError(
                f"objective='mean_flow' is for networks that are told where a step ends: a {network.__name__} is not"
            )
        return {**super().told_beside(network, training), "reads_s": True}

    @property
    def tells_s(self) -> bool:
        """Its network is told where a step ends."""
        return True

    @property
    def time_scale(self) -> Array:
        """What the network is told of a time over the time, of the straight way its sigma."""
        level = self.schedule.level(1.0)
        return level.t / level.sigma

    @property
    def has_teacher(self) -> bool:
        """Whether there is one."""
        return self.words.teacher

    @property
    def taught_by(self) -> nn.Module:
        """A network of one time."""
        return self.model.clone(reads_s=False)

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
        """The error of the mean velocity from t to s; the metrics have its mean square."""
        draw = DrawOfT(self.training.timestep_sampling, None, self.batch_size)
        t_key, s_key, span_key, noise_key, context_key, dropout_key = jax.random.split(key, 6)
        place, importance = draw(t_key, batch, history)
        t, s = self.spans(place, draw(s_key, batch, history)[0], example_keys(span_key, batch))
        x_0, level = batch["image"], Level(self.time_scale * t, 1 - t, t)
        noise = noise_like(example_keys(noise_key, batch), x_0)
        x_t = coefficient_like(level.alpha, x_0) * x_0 + coefficient_like(t, x_0) * noise
        context = conditioner.context(batch, context_key, train=train)
        apply = self.student(params, batch, dropout_key, train=train)
        said_fn = self.teacher(base, conditioner) if self.has_teacher else self._own(apply, conditioner, x_0, noise)
        velocity = jax.lax.stop_gradient(read(said_fn(x_t, level, context), "flow", level=level))

        def u(x: Array, t: Array) -> Array:
            return apply(x, self.time_scale * t, {**context, "s": self.time_scale * s})

        said, wanted = mean_velocity(u, x_t, velocity, t, s)
        squared = mean_of_image(jnp.square(said - jax.lax.stop_gradient(wanted)))
        power = self.words.loss_power
        power = (0.0 if self.has_teacher else 1.0) if power is None else power
        return evened(x_0[0].size * squared, power=power).mean(), draw.metrics(batch, place, importance, squared, None)

    def spans(self, place: Array, other: Array, keys: Array) -> tuple[Array, Array]:
        """(t, s) [b] of two draws in [0, 1): for a share of the images both, the noisier first, else one twice."""
        a, b = (self.schedule.level(draw).sigma for draw in (place, other))
        is_span = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(self.words.span_share)))(keys)
        least = self.schedule.level(0.0).sigma  # a step's end is 0 too
        return jnp.where(is_span, jnp.maximum(a, b), a), jnp.where(is_span, jnp.minimum(a, b) - least, a)

    def _own(self, apply: Callable[..., Array], conditioner: Conditioner, x_0: Array, noise: Array) -> DenoiseFn:
        """The data and the noise at hand, guided away from what the network says of the null context (their eq. 19)."""

        def given(x_t: Array, level: Level, context: Context | None = None) -> Prediction:
            return Prediction(x_0, noise)

        if not self.guides_teacher:
            return given
        null = conditioner.null(len(x_0))
        own = denoiser(apply, self.schedule, prediction_type="flow")
        return guidance.guided(given, lambda x, level, _: own(x, level, null), self.words.guidance_scale)
