"""The objective of diffusion models: to predict the noise of images that were noised (Ho et al. 2020).

Which space diffuses is the codec's, and what the model is told the conditioner's: the loss knows neither.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marble import diffusion
from marble.conditioning import Autoencoder, Codec, Conditioner, Identity, Labels, LowRes, Origin, Text
from marble.data.examples import Examples
from marble.data.preprocess import example_keys
from marble.diffusion import NoiseSchedule, weighting
from marble.diffusion.timesteps import LossHistory
from marble.errors import InputError
from marble.models import AdmUNet, ConditionalUNet, DiT, LearnedLinear, LearnedMonotone, UNet, lora
from marble.objectives.denoising import diffusion_loss_fn
from marble.objectives.diffusion_config import (
    FIXED,
    DiffusionConfig,
    DiffusionTrainingConfig,
    check_words,
    warn_of_image_left,
)
from marble.objectives.draws import empty_sums, log_by_t
from marble.objectives.learned_schedule import CURVE, schedule_of, variational_loss_fn
from marble.objectives.objective import Given, Plain
from marble.objectives.samplers import SAMPLERS, named_sampler, with_schedule
from marble.parallel import WHOLE, Across, DeviceMapping
from marble.pipelines import Classifier, DiffusionPipeline, SamplingConfig
from marble.sampling import Sampler
from marble.schema import DTYPES, Reading, Section, schema
from marble.training.state import Memory
from marble.training.step import LossFn
from marble.typing import Array, Batch, ImageSpec

logger = logging.getLogger(__name__)

CODEC_DRAW = 5
"""Folded into a step's key for what the codec draws, apart from the draws of the loss."""
CONDITIONERS = {"labels": Labels, "text": Text, "low_res": LowRes}
CODECS = {"identity": Identity, "autoencoder": Autoencoder}
MODELS = {"unet": UNet, "conditional_unet": ConditionalUNet, "dit": DiT, "adm": AdmUNet}
SCHEDULES = {
    "linear": diffusion.linear,
    "scaled_linear": diffusion.scaled_linear,
    "quadratic": diffusion.scaled_linear,
    "constant": diffusion.constant,
    "jsd": diffusion.jsd,
    "warmup10": diffusion.warmup10,
    "warmup50": diffusion.warmup50,
    "squaredcos_cap_v2": diffusion.squaredcos_cap_v2,
    "sigmoid": diffusion.sigmoid,
    "cosine": diffusion.cosine,
    "edm": diffusion.edm,
    "rectified_flow": diffusion.rectified_flow,
    "learned_linear": LearnedLinear,
    "learned_monotone": LearnedMonotone,
}
WEIGHTINGS = {
    "simple": weighting.simple,
    "elbo": weighting.elbo,
    "snr": weighting.snr,
    "min_snr": weighting.min_snr,
    "p2": weighting.p2,
    "sigmoid": weighting.sigmoid,
    "edm": weighting.edm,
    "truncated_snr": weighting.truncated_snr,
}


class Frozen(NamedTuple):
    """What the loss reads beside the parameters that are trained."""

    codec: Codec
    conditioner: Conditioner
    base: Any = None
    """The network's parameters, where adapters of them alone are trained."""


@dataclasses.dataclass(frozen=True)
class LoraWords:
    """The section ``lora`` of a config; see ``marble.models.lora.Lora``."""

    rank: int | None = None
    """None trains the whole network; a number adapters of that rank, of the network of ``config.init_from``."""
    alpha: float | None = None
    targets: Sequence[str] = (lora.ATTENTION,)

    def adapters(self) -> lora.Lora | None:
        """What is trained, if not the whole."""
        return None if self.rank is None else lora.Lora(self.rank, self.alpha, tuple(self.targets))


@dataclasses.dataclass(frozen=True)
class Diffusion(Plain):
    """A diffusion model's."""

    model: nn.Module
    codec: Codec
    conditioner: Conditioner
    schedule: NoiseSchedule | nn.Module
    """One that is learned is a module, whose parameters are with the model's: ask ``schedule_of``."""
    config: DiffusionConfig
    weighting: weighting.Weighting
    training: DiffusionTrainingConfig
    batch_size: int
    """Of a training step, on all devices."""
    sampler: Sampler
    named_sampler: Callable[[str], Sampler]
    """Another one, by its name."""
    sampling: SamplingConfig
    adapters: lora.Lora | None = None
    """Which adapters are trained, in place of the whole network."""

    choices: ClassVar[Mapping[str, Mapping[str, Any]]] = {"conditioner": CONDITIONERS, "codec": CODECS}
    sections: ClassVar[Mapping[str, Section]] = {
        "model": Section({"name": MODELS, "dtype": DTYPES}, ("name",)),
        "diffusion": Section(
            {"beta_schedule": SCHEDULES, "weighting": WEIGHTINGS}, ("beta_schedule", DiffusionConfig, "weighting")
        ),
        "training": Section(constructors=(DiffusionTrainingConfig,)),
        "sampling": Section({"sampler": SAMPLERS}, ("sampler", SamplingConfig)),
        "lora": Section(constructors=(LoraWords,), is_optional=True),
    }

    @classmethod
    def followed(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config whose sampler, where nothing is said, uses the variance that is learned, and clips no latents."""
        if config.get("codec") == "autoencoder" and "clip_sample" not in config.get("sampling", {}):
            config = {**config, "sampling": {**config.get("sampling", {}), "clip_sample": False}}
        learned = config.get("diffusion", {}).get("variance_type")
        sampling = config.get("sampling", {})
        if learned in (None, *FIXED) or "variance_type" in sampling:
            return config
        if "variance_type" not in schema(cls.sections["sampling"].chosen("sampling", sampling)[0]["sampler"]):
            return config
        return {**config, "sampling": {**sampling, "variance_type": learned}}

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "Diffusion":
        """The objective of a config; InputError where its words don't go together."""
        words, training = reading.make("diffusion", DiffusionConfig), reading.make("training", DiffusionTrainingConfig)
        make_schedule, weigh = (reading.named("diffusion", key) for key in ("beta_schedule", "weighting"))
        name = next(name for name, make in SCHEDULES.items() if make is make_schedule)
        schedule = words.stretched(reading.make("diffusion", make_schedule), name)
        codec = given.parts["codec"].build(reading, given.image)
        model = reading.make(
            "model",
            "name",
            dtype=reading.named("model", "dtype"),
            out_channels=codec.spec.shape[-1] * (2 if words.learns_variance else 1),
            **cls.told_beside(reading.named("model", "name"), training),
        )
        named = functools.partial(named_sampler, schedule, reading.arguments("sampling", "sampler"))
        sampler = with_schedule(
            reading.named("sampling", "sampler"), schedule, **reading.arguments("sampling", "sampler")
        )
        built = cls(
            model=model,
            codec=codec,
            conditioner=given.parts["conditioner"].build(reading, model, given.class_names, given.image),
            schedule=schedule,
            config=words,
            weighting=functools.partial(weigh, **reading.arguments("diffusion", weigh)),
            training=training,
            batch_size=given.training.batch_size,
            sampler=sampler,
            named_sampler=named,
            sampling=reading.make("sampling", SamplingConfig),
            adapters=reading.make("lora", LoraWords).adapters(),
        )
        if words.learns_variance and getattr(sampler, "variance_type", words.variance_type) in FIXED:
            logger.warning(
                "sampling.variance_type=%r leaves the variance that is learned unused", sampler.variance_type
            )
        if isinstance(built.conditioner, LowRes) and not isinstance(codec, Identity):
            # The loss hands conditioners x_0, and of latents there are no means of pixels.
            raise InputError("conditioner='low_res' is told of pixels: set codec='identity'")
        built.sampling.guidance().check(built.conditioner)
        check_words(
            words,
            schedule,
            weigh,
            timestep_sampling=training.timestep_sampling,
            self_conditioning=training.self_conditioning,
            sampler=sampler,
        )
        if not built.learns_schedule:
            warn_of_image_left(schedule, given.training.num_steps)
        return built

    @classmethod
    def told_beside(cls, network: type[nn.Module], training: DiffusionTrainingConfig) -> dict[str, bool]:
        """The arguments of the network by which it is told more; InputError where that is asked of another."""
        if "reads_x_0" in network.__dataclass_fields__:
            return {"reads_x_0": training.self_conditioning}
        if training.self_conditioning:
            raise InputError(f"training.self_conditioning is for models that read it: a {network.__name__} does not")
        return {}

    @property
    def image(self) -> ImageSpec:
        """Of the images."""
        return self.codec.image

    @property
    def tells_s(self) -> bool:
        """Whether the network is told where a step ends."""
        return False

    @property
    def keys(self) -> tuple[str, ...]:
        """What a batch must hold beside ``image`` and ``index``."""
        return tuple(self.conditioner.keys)

    @property
    def learns_schedule(self) -> bool:
        """Whether the schedule is trained with the model."""
        return isinstance(self.schedule, nn.Module)

    def schedule_of(self, params: Any) -> NoiseSchedule:
        """The schedule, which may be learned and so among the parameters."""
        return schedule_of(self.schedule, params) if self.learns_schedule else self.schedule

    def check(self) -> None:
        """InputError unless the section ``sampling`` names a grid that the schedule has."""
        if not self.learns_schedule:
            self.sampling.levels(self.schedule, self.sampling.num_steps)
        elif self.adapters is not None:
            raise InputError("lora.rank is for schedules that are not learned: leave it out, or choose another")
        elif self.sampling.num_steps is None:
            raise InputError("sampling.num_steps is missing: a learned schedule has no number of steps of its own")

    def check_data(self, name: str, num_classes: int | None) -> None:
        """InputError where the data set of that name does not have what the model is told."""
        self.conditioner.check_data(name, num_classes)

    def model_inputs(self) -> tuple[Any, ...]:
        """Arguments of the model for one image."""
        return (
            jnp.zeros((1, *self.codec.spec.shape), jnp.float32),
            jnp.zeros(1, jnp.int32),
            self.conditioner.null(1) or None,
        )

    def read(self, examples: Examples, origin: Origin | None) -> Examples:
        """The examples with what the model is told of, and with latents where these are kept."""
        return self.conditioner.read(self.codec.cached(examples, origin))

    def init_params(self, key: Array) -> Any:
        """The initial parameters of the model, or of its adapters, and of a schedule that is learned."""
        params = self.model.init(key, *self.model_inputs())["params"]
        if self.adapters is not None:
            return lora.init(self.adapters, params, jax.random.fold_in(key, 2))
        if not self.learns_schedule:
            return params
        return {**params, CURVE: self.schedule.init(jax.random.fold_in(key, 1), jnp.zeros(1, jnp.float32))["params"]}

    def loss_history(self) -> Memory | None:
        """What the state has to remember of losses: something where t is drawn by importance."""
        if self.training.timestep_sampling != "importance":
            return None
        return LossHistory.empty(self.schedule.num_train_timesteps)

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss of images, that of the x_0 they are encoded to; in training with dropout, of the context too."""

        def loss_fn(params: Any, batch: Batch, key: Array, history: Any = None, frozen: Frozen | None = None) -> Any:
            codec, conditioner, base = frozen or Frozen(self.codec, self.conditioner)
            params = self.whole(params, frozen)
            keys = example_keys(jax.random.fold_in(key, CODEC_DRAW), batch)
            x_0 = codec.of_batch(batch, keys)
            memory = () if history is None else (history,)
            return self.loss_of_x_0(base, conditioner, train=train)(params, {**batch, "image": x_0}, key, *memory)

        return loss_fn

    def loss_of_x_0(self, base: Any, conditioner: Conditioner, *, train: bool) -> LossFn:
        """The loss of x_0 in the place of images; base are the parameters of ``base_shapes``."""
        del base
        options = dict(
            prediction_type=self.config.prediction_type,
            timestep_sampling=self.training.timestep_sampling,
            batch_size=self.batch_size,
            # The bound's last term is of pixels; of latents, DiT's own training takes it as if they had as many levels.
            levels=self.codec.spec.levels or self.image.levels,
            conditioner=conditioner,
            train=train,
        )
        if self.learns_schedule:
            return variational_loss_fn(self.model, self.schedule, **options)
        return diffusion_loss_fn(
            self.model,
            self.schedule,
            variance_type=self.config.variance_type,
            weighting=self.weighting,
            self_conditioning=self.training.self_conditioning,
            **options,
        )

    def frozen(self, base: Any = None) -> Frozen | None:
        """The parts that the loss reads and no step changes, arrays on the host; None where they have no parameters.

        base are the network's parameters where adapters are trained.
        """
        parts = Frozen(self.codec, self.conditioner, base)
        return parts if jax.tree.leaves(parts) else None

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained."""
        return self.adapters is not None

    @property
    def base_shapes(self) -> Any:
        """The shapes of what ``frozen`` takes as base; None where the whole network is trained."""
        if not self.adapts:
            return None
        return jax.eval_shape(lambda: self.model.init(jax.random.key(0), *self.model_inputs())["params"])

    def whole(self, params: Any, frozen: Frozen | None) -> Any:
        """The network's parameters: what is trained, or what adapters make of the base."""
        return params if self.adapters is None else lora.merged(self.adapters, frozen.base, params)

    def sums(self) -> Mapping[str, Array]:
        """The metrics of the loss over nothing."""
        return empty_sums()

    def log(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The loss by quarters of t."""
        return log_by_t(sums)

    def loss_and_count(self, sums: Mapping[str, Any]) -> tuple[Any, Any]:
        """The sum of the loss over the images of such sums, and their number."""
        return sums["loss_by_t"].sum(), sums["count_by_t"].sum()

    def pipeline(
        self,
        params: Any,
        *,
        mapping: DeviceMapping,
        guide: DiffusionPipeline | None = None,
        classifier: Classifier | None = None,
    ) -> DiffusionPipeline:
        """The sampler of this model with these parameters."""
        return DiffusionPipeline(
            model=self.model,
            params=params,
            schedule=self.schedule_of if self.learns_schedule else self.schedule,
            prediction_type=self.config.prediction_type,
            codec=self.codec,
            conditioner=self.conditioner,
            sampler=self.sampler,
            config=self.sampling,
            variance_type=self.config.variance_type,
            guide=guide,
            classifier=classifier,
            named_sampler=self.named_sampler,
            self_conditioning=self.training.self_conditioning,
            tells_s=self.tells_s,
            mapping=mapping,
        )

    def examples(self, num: int) -> Mapping[str, Any]:
        """A request that shows what the model can be told."""
        return self.conditioner.examples(num)

    def grid(
        self, pipe: DiffusionPipeline, params: Any, held_out: Examples | None, *, num: int, seed: int
    ) -> np.ndarray:
        """Images of what the model can be told."""
        return pipe.sample(num, seed=seed, params=params, **self.conditioner.examples(num, held_out))
