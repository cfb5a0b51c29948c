"""A trained network in use: what it says of noised images, guided or as it is."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marble.conditioning import NOTHING_ASKED, Codec, Conditioner, Request
from marble.diffusion import NoiseSchedule, PredictionType, denoiser
from marble.errors import InputError
from marble.parallel import DeviceMapping, ParallelConfig, in_32_bits
from marble.pipelines.classifier import Classifier
from marble.pipelines.copies import Copyable
from marble.pipelines.guidance import Guidance, check_guide
from marble.pipelines.rows import (
    check_spelling,
    checked_times,
    fitting_batch_size,
    image_indices,
    over_batches,
    whole,
)
from marble.pipelines.settings import SamplingConfig
from marble.sampling import Sampler, guidance
from marble.typing import Array, Batch, Context, DenoiseFn, ImageSpec, Level, Prediction

MOST_PIXELS = 4096 * 4096
"""Of an image: far larger ones have more numbers than a program can count, and end it in the compiler."""
CUDNN = "cudnn"
"""What ``attention_implementation`` of a model is where it is NVIDIA's kernel."""


class AllParams(NamedTuple):
    """All that a pipeline's programs read and that never changes between calls: pytrees of arrays."""

    model: Any
    guide: Any
    """A weaker model's, or None."""
    codec: Codec
    conditioner: Conditioner
    classifier: Classifier | None = None


class TrainedDenoiser(Copyable):
    """A network with its parameters, its schedule and what it is told: the part of a pipeline that is no sampler.

    ``params`` and ``apply`` are public; ``pipe.apply(params, x_t, t, context)`` is the network, a pure function.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        params: Any,
        schedule: NoiseSchedule | Callable[[Any], NoiseSchedule],
        codec: Codec,
        config: SamplingConfig,
        conditioner: Conditioner,
        prediction_type: PredictionType,
        guide: "TrainedDenoiser | None",
        classifier: Classifier | None = None,
        mapping: DeviceMapping | None,
    ) -> None:
        """See ``DiffusionPipeline``."""
        self.model, self.codec, self.conditioner, self.config = model, codec, conditioner, config
        self.is_learned = callable(schedule)
        self.schedule_of = schedule if self.is_learned else lambda _: schedule
        self._prediction_type, self._guide, self._classifier = prediction_type, guide, classifier
        self.mapping = mapping or ParallelConfig().open()
        self.params = self.mapping.place(params)
        self._denoise = jax.jit(self._predict)
        self._encode = self.mapping.compile_rows(lambda codec, batch: codec.encode(batch["rows"]))
        self._decode = self.mapping.compile_rows(lambda codec, batch: codec.decode(batch["rows"]))
        if guide is not None:
            check_guide(self.schedule, self.image, guide)
        self.guidance()

    def on_any_platform(self) -> Self:
        """The same, with jax's own attention in the place of cuDNN's, which one platform has."""
        guide = self._guide and self._guide.on_any_platform()
        is_plain = getattr(self.model, "attention_implementation", None) != CUDNN
        if is_plain and guide is self._guide:
            return self
        model = self.model if is_plain else self.model.clone(attention_implementation=None)
        return self.with_parts(model=model, guide=guide)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the model was trained on."""
        return self.schedule_of(self.params)

    @property
    def image(self) -> ImageSpec:
        """Of the images."""
        return self.codec.image

    @property
    def class_names(self) -> Sequence[str] | None:
        """The names of the classes in the order of the labels, where the model is told them by name."""
        return getattr(self.conditioner, "class_names", None)

    def all_params(self, params: Any = None, *, image: ImageSpec | None = None) -> AllParams:
        """What programs take first; params stand in place of the model's, image in that of its own size."""
        mine = self.params if params is None else params
        codec, conditioner, classifier = self._placed
        codec = codec if image is None else codec.resized(*image.shape[:2])
        return AllParams(mine, self._guide and self._guide.params, codec, conditioner, classifier)

    def codec_of(self, height: int | None, width: int | None) -> Codec:
        """The codec of images of this size, None its own; InputError where the network takes no other."""
        shape = self.image.shape
        asked = tuple(own if n is None else whole("size", n) for n, own in zip((height, width), shape, strict=False))
        if asked == shape[:2]:
            return self.codec
        if not getattr(self.model, "takes_any_size", False):
            raise InputError(
                f"images of {asked[0]} x {asked[1]} asked for, and this network makes {shape[0]} x {shape[1]}: "
                "leave height and width out"
            )
        if min(asked) < 1 or asked[0] * asked[1] > MOST_PIXELS:
            raise InputError(
                f"images of {asked[0]} x {asked[1]} asked for: give a height and width of at least 1, and at most "
                f"{MOST_PIXELS} pixels in all"
            )
        codec = self.codec.resized(*asked)
        factor = self.model.size_factor
        if any(side % factor for side in codec.spec.shape[:2]):
            step = factor * shape[0] // self.codec.spec.shape[0]
            raise InputError(f"images of {asked[0]} x {asked[1]}: give a height and width that are multiples of {step}")
        return codec

    def codec_of_images(self, images: np.ndarray) -> Codec:
        """The codec of images [n h w c] of their size, or where the network takes no other, its own."""
        shape = np.shape(images)
        is_any = len(shape) == 4 and getattr(self.model, "takes_any_size", False)
        return self.codec_of(*shape[1:3]) if is_any else self.codec

    @functools.cached_property
    def _placed(self) -> tuple[Codec, Conditioner, Classifier | None]:
        """What is beside the network, its arrays on the devices."""
        return self.mapping.place((self.codec, self.conditioner, self._classifier))

    def guided_fn(self, params: AllParams, guided: Guidance, rows: Batch) -> DenoiseFn:
        """The model's predictions, guided where it can be, and within the range of images; rows are the request's."""
        denoise_fn, kind = self.denoise_fn(params.model), self._prediction_type
        if self._guide is not None:
            denoise_fn = guided.away_from(denoise_fn, self._guide.denoise_fn(params.guide), prediction_type=kind)
        elif params.conditioner.has_null:
            null = params.conditioner.null_of_rows(rows)
            denoise_fn = guided.away_from_null(denoise_fn, null, prediction_type=kind)
        if params.classifier is not None:
            denoise_fn = guidance.classifier_guided(denoise_fn, params.classifier.log_prob, guided.classifier)
        return self.config.clipped(denoise_fn)

    def encode(self, images: np.ndarray, *, batch_size: int | None = None) -> np.ndarray:
        """x_0 [n h' w' c] float32, the mean where the codec draws, of images [n h w c] float32 in [-1, 1]."""
        return self._over_batches(self._encode, images, batch_size)

    def decode(self, x_0: np.ndarray, *, batch_size: int | None = None) -> np.ndarray:
        """The images [n h w c] float32 of x_0 [n h' w' c], which the codec may leave outside of [-1, 1]."""
        return self._over_batches(self._decode, x_0, batch_size)

    def _over_batches(self, program: Any, rows: np.ndarray, batch_size: int | None) -> np.ndarray:
        if not jax.tree.leaves(self.codec):  # pixels
            return rows
        size = self.config.batch_size if batch_size is None else batch_size
        size = fitting_batch_size(size, self.mapping, num=len(rows))
        return over_batches(program, self._placed[0], {"rows": rows}, batch_size=size, mapping=self.mapping)

    def clipped_denoise_fn(self, params: Any) -> DenoiseFn:
        """``denoise_fn`` within the range of images, as the config says."""
        return self.config.clipped(self.denoise_fn(params))

    def denoise_fn(self, params: Any) -> DenoiseFn:
        """The DenoiseFn of the network with these parameters, not clipped."""
        apply = lambda *inputs: self.apply(params, *inputs)  # noqa: E731
        return denoiser(apply, self.schedule_of(params), prediction_type=self._prediction_type)

    def apply(self, params: Any, x_t: Array, t: Array, context: Context | None = None) -> Array:
        """The network's output [b h w c] for x_t [b h w c] and steps t [b]."""
        return self.model.apply({"params": params}, x_t, t, context or None)

    def denoise(self, x_t: Array, t: int | Array, context: Context | None = None) -> Prediction:
        """The Prediction (.eps and .x_0, not clipped) for x_t [b h w c] at steps t, an integer or [b], in 0..T-1.

        In continuous time t is in [0, 1]. context is what the conditioner reads, and null where it says nothing.
        InputError for values or shapes that don't fit.
        """
        x_t, shape = jnp.asarray(x_t), self.codec.spec.shape
        if x_t.ndim != 4 or x_t.shape[1:] != tuple(shape):
            raise InputError(f"x_t of shape {list(x_t.shape)} must be [b, {', '.join(map(str, shape))}]")
        t = checked_times(t, len(x_t), self.schedule.num_train_timesteps)
        return self._denoise(self.params, x_t, t, self.conditioner.of_context(len(x_t), context or {}))

    def _predict(self, params, x_t, t, context):
        return self.denoise_fn(params)(x_t, self.schedule_of(params).level(t), context)

    def guidance(
        self,
        request: Request | None = None,
        scale: float | None = None,
        interval: Sequence[float] | None = None,
        rescale: float | None = None,
        classifier_scale: float | None = None,
    ) -> Guidance:
        """The numbers of guidance, the config's where None is given; InputError where they can't be followed."""
        if classifier_scale is not None and self._classifier is None:
            raise InputError(
                f"classifier_scale={classifier_scale} needs a classifier: give one when the model is loaded"
            )
        numbers = self.config.guidance(scale, interval, rescale, classifier_scale)
        numbers.check(self.conditioner, has_guide=self._guide is not None)
        for name in self.conditioner.against if self._guide is not None else ():
            if (request or {}).get(name) is not None:
                raise InputError(f"{name} is for guidance without a guide, and this one goes away from its guide")
        # The config's scale is for images that are told something: else both predictions are the null context's.
        is_told = any(value is not None for value in (request or {}).values())
        if self._guide is None and scale not in (None, 1) and not is_told:
            raise InputError(f"guidance_scale={scale} needs {self.conditioner.asks} to go towards")
        return numbers

    def rows(
        self,
        num: int,
        *,
        seed: int,
        first: int = 0,
        request: Request = NOTHING_ASKED,
        image: ImageSpec | None = None,
    ) -> dict[str, np.ndarray]:
        """Each image's index, and what the conditioner makes of the request for such images: [num ...]."""
        check_spelling(request, self.conditioner.requests, getattr(self, "sample", None))
        told = self.conditioner.of_request(num, request, image or self.image)
        return {"index": image_indices(num, seed=seed, first=first), **told}

    def num_steps(self, steps: int | None = None) -> int:
        """The number of sampling steps: those asked for, the config's, or all of training's; else an InputError."""
        steps = self.config.num_steps if steps is None else whole("steps", steps)
        steps = self.schedule.num_train_timesteps if steps is None else steps
        if steps is None:
            raise InputError("no number of sampling steps: in continuous time give steps, or set sampling.num_steps")
        return steps

    @in_32_bits
    def grid(self, num_steps: int, params: Any = None, sampler: Sampler | None = None) -> Level:
        """The levels of that many steps, padded so that other numbers are the same program.

        params are those of a learned schedule, if not the pipeline's own; sampler is who walks along them.
        """
        return self.config.grid(self.schedule_of(self.params if params is None else params), num_steps, sampler)
