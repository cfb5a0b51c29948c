"""Images from a trained model: the compiled sampler behind ``marble.load(workdir).sample`` and ``marble sample``."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from marble.data.preprocess import to_uint8
from marble.diffusion import NoiseSchedule, PredictionType, cosine, denoiser
from marble.diffusion.process import VarianceType
from marble.errors import InputError
from marble.parallel import DeviceMapping, ParallelConfig, in_32_bits
from marble.pipelines.copies import Copyable
from marble.pipelines.rows import batches, fitting_batch_size, image_indices, whole
from marble.pipelines.settings import Guidance, ImageSpec, SamplingConfig
from marble.sampling import Frames, Sampler, Step, guidance, image_keys, sample
from marble.typing import Array, Context, DenoiseFn, Level, Prediction

LONGEST_GRID = 1000
"""Steps that one program has room for where time is continuous; more are another program."""

STATIC = ("num_frames", "ticking")
"""What changes the program."""


class DiffusionPipeline(Copyable):
    """A model, its schedule and a sampler: one compiled program for any number of images and steps.

    ``params`` and ``apply`` are public; ``pipe.apply(params, x_t, t, context)`` is the network, a pure function.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        params: Any,
        schedule: NoiseSchedule | Callable[[Any], NoiseSchedule],
        image: ImageSpec,
        sampler: Sampler,
        config: SamplingConfig,
        prediction_type: PredictionType = "eps",
        variance_type: VarianceType = "fixed_large",
        has_null_class: bool = False,
        guide: "DiffusionPipeline | None" = None,
        self_conditioning: bool = False,
        mapping: DeviceMapping | None = None,
    ) -> None:
        """schedule may be a function of the parameters, as a learned one is.

        variance_type: that of the reverse step, where neither a sampler nor a caller says which.
        has_null_class: whether the model was also trained without labels, and so can sample without.
        self_conditioning: whether it was trained to be told its own last estimate of x_0.
        mapping: how programs run on the devices; by default over all of them.
        guide: a weaker model of the same images and schedule, to go away from (autoguidance, Karras et al. 2024).
        """
        self.model, self.image, self.sampler, self.config = model, image, sampler, config
        self._is_learned = callable(schedule)
        self._schedule_of = schedule if self._is_learned else lambda _: schedule
        self._prediction_type, self.variance_type = prediction_type, variance_type
        self.has_null_class, self.self_conditioning = has_null_class, self_conditioning
        self._guide = guide
        self.mapping = mapping or ParallelConfig().open()
        self.params = self.mapping.place(params)
        self._bar: tqdm | None = None
        self._compiled = self.mapping.compile_rows(self._sample_batch, out_axes=(0, 1), static=STATIC)
        self._denoise = jax.jit(self._predict)
        self._check_guide()
        self.guidance()

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the model was trained on."""
        return self._schedule_of(self.params)

    def apply(self, params: Any, x_t: Array, t: Array, context: Context | None = None) -> Array:
        """The network's output [b h w c] for x_t [b h w c] and steps t [b]."""
        return self.model.apply({"params": params}, x_t, t, context)

    def denoise_fn(self, params: Any) -> DenoiseFn:
        """The DenoiseFn of the network with these parameters, not clipped."""
        apply = lambda *inputs: self.apply(params, *inputs)  # noqa: E731
        return denoiser(apply, self._schedule_of(params), prediction_type=self._prediction_type)

    def denoise(self, x_t: Array, t: int | Array, context: Context | None = None) -> Prediction:
        """The Prediction (.eps and .x_0, not clipped) for x_t [b h w c] at steps t, an integer or [b], in 0..T-1.

        In continuous time t is in [0, 1]. context holds ``label`` [b] for a conditional model. InputError for values or
        shapes that don't fit.
        """
        x_t = jnp.asarray(x_t)
        if x_t.ndim != 4 or x_t.shape[1:] != tuple(self.image.shape):
            raise InputError(f"x_t of shape {list(x_t.shape)} must be [b, {', '.join(map(str, self.image.shape))}]")
        t = self._times(t, len(x_t))
        labels = (context or {}).get("label")
        if self.model.num_classes is not None and not isinstance(labels, jax.core.Tracer):
            context = {**(context or {}), "label": self._labels(labels, len(x_t), highest=self.model.num_classes)}
        return self._denoise(self.params, x_t, t, context)

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        steps: int | None = None,
        first: int = 0,
        batch_size: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        guidance_rescale: float | None = None,
        eta: float | None = None,
        num_frames: int = 0,
        params: Any = None,
        as_float: bool = False,
        progress: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, Frames]:
        """num images [num h w c]: uint8 0..255, or float32 in [-1, 1] with as_float.

        They are the images first .. first + num - 1 of the run ``seed``; each depends on its index alone. labels is one
        class for all or one an image, None the null class; steps is at most T; params replaces the pipeline's own.
        The guidance arguments replace the config's (see ``SamplingConfig``), eta the sampler's share of new noise.
        With num_frames returns (images, Frames [num_frames num h w c]), the way from noise. A number of images per
        call (batch_size) or of frames that was not used before is compiled first. InputError for values out of range.
        """
        num, num_frames = whole("num", num), whole("num_frames", num_frames)
        if num_frames < 0:
            raise InputError(f"num_frames={num_frames} must be at least 0")
        size = fitting_batch_size(self.config.batch_size if batch_size is None else batch_size, self.mapping)
        num_steps = self.num_steps(steps)
        rows = self.rows(num, seed=seed, first=first, labels=labels)
        strength = self.guidance(labels, guidance_scale, guidance_interval, guidance_rescale)
        settings = self._settings(eta)
        options = dict(num_frames=min(num_frames, num_steps), ticking=progress)
        params = self.all_params(params)
        grid = self.grid(num_steps, params[0])
        calls = -(-num // size)
        results = []
        with tqdm(total=calls * num_steps, unit="step", disable=None if progress else True) as self._bar:
            for host_batch in batches(rows, size):
                batch = self.mapping.put(host_batch)
                images, frames = self._compiled(
                    params, batch, np.uint32(seed), grid, np.int32(num_steps), strength, settings, **options
                )
                results.append((self._finish(images, as_float), jax.tree.map(self._finish, frames)))
        images = np.concatenate([images for images, _ in results])[:num]
        frames = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :num], *[f for _, f in results])
        return (images, frames) if num_frames else images

    def lower(self, params: Any, *, batch_size: int | None = None) -> jax.stages.Lowered:
        """The program of ``sample`` for shapes of parameters, of a mesh; what it costs is known once it is compiled."""
        size = fitting_batch_size(self.config.batch_size if batch_size is None else batch_size, self.mapping)
        num_steps = self.num_steps()
        rows = self.rows(size, seed=0, labels=None if self.model.num_classes is None else 0)
        # The levels of a learned schedule need its parameters; their shapes are those of any in continuous time.
        grid = self._grid(cosine() if self._is_learned else self.schedule, num_steps)
        program = self.mapping.jitted_rows(self._sample_batch, STATIC)
        strength, settings = self.config.guidance(), self._settings(None)
        return program.lower(
            (params, None),
            self.mapping.row_shapes(rows),
            np.uint32(0),
            grid,
            np.int32(num_steps),
            strength,
            settings,
            num_frames=0,
            ticking=False,
        )

    def _sample_batch(self, params, batch, seed, grid, num_steps, strength, settings, *, num_frames, ticking):
        sampler = self.sampler._replace(**settings) if settings else self.sampler
        result = sample(
            self.guided_fn(*params, strength),
            Ticking(sampler, self._tick) if ticking else sampler,
            grid,
            image_keys(seed, batch["index"]),
            self.image.shape,
            context={"label": batch["label"]} if "label" in batch else None,
            num_steps=num_steps,
            num_frames=num_frames,
            self_conditioning=self.self_conditioning,
        )
        return result if num_frames else (result, None)

    def all_params(self, params: Any = None) -> tuple[Any, Any]:
        """The parameters that ``guided_fn`` takes first: the model's, or those in place of them, and the guide's."""
        return self.params if params is None else params, self._guide and self._guide.params

    def guided_fn(self, params: Any, guide_params: Any, strength: Guidance) -> DenoiseFn:
        """The model's predictions, guided where it can be, and within the range of images."""
        plain = denoise_fn = self.denoise_fn(params)
        interval = (strength.low, strength.high)
        if self._guide is not None:
            denoise_fn = guidance.guided(plain, self._guide.denoise_fn(guide_params), strength.scale, interval=interval)
        elif self.has_null_class:
            null = {"label": jnp.full(1, self.model.num_classes, jnp.int32)}
            denoise_fn = guidance.classifier_free(plain, strength.scale, null_context=null, interval=interval)
        if denoise_fn is not plain:
            kind = "x_0" if self._prediction_type == "posterior_mean" else self._prediction_type
            denoise_fn = guidance.rescaled(plain, denoise_fn, strength.rescale, prediction_type=kind)
        return self._clipped(denoise_fn)

    def _clipped(self, denoise_fn: DenoiseFn) -> DenoiseFn:
        keep_eps = not self.config.use_clipped_model_output
        if self.config.dynamic_thresholding_ratio is not None:
            ratio = self.config.dynamic_thresholding_ratio
            return guidance.dynamic_threshold(denoise_fn, quantile=ratio, keep_eps=keep_eps)
        return guidance.static_threshold(denoise_fn, keep_eps=keep_eps) if self.config.clip_sample else denoise_fn

    def _predict(self, params, x_t, t, context):
        return self.denoise_fn(params)(x_t, self._schedule_of(params).level(t), context)

    def _tick(self) -> None:
        self._bar.update()

    def _finish(self, images: np.ndarray, as_float: bool = False) -> np.ndarray:
        return np.clip(images, -1, 1) if as_float else np.asarray(to_uint8(images, self.image.levels))

    def num_steps(self, steps: int | None = None) -> int:
        """The number of sampling steps: those asked for, the config's, or all of training's; else an InputError."""
        steps = self.config.num_steps if steps is None else whole("steps", steps)
        steps = self.schedule.num_train_timesteps if steps is None else steps
        if steps is None:
            raise InputError("no number of sampling steps: in continuous time give steps, or set sampling.num_steps")
        return steps

    @in_32_bits
    def grid(self, num_steps: int, params: Any = None) -> Level:
        """The levels of that many steps, padded so that other numbers are the same program.

        params are those of a learned schedule, if not the pipeline's own.
        """
        return self._grid(self._schedule_of(self.params if params is None else params), num_steps)

    def _grid(self, schedule: NoiseSchedule, num_steps: int) -> Level:
        length = schedule.num_train_timesteps or max(num_steps, LONGEST_GRID)
        return self.config.levels(schedule, num_steps, length=length)

    def clipped_denoise_fn(self, params: Any) -> DenoiseFn:
        """``denoise_fn`` within the range of images, as the config says."""
        return self._clipped(self.denoise_fn(params))

    def _settings(self, eta: float | None) -> dict[str, np.float32]:
        """The sampler's numbers, which are traced: other values are the same program."""
        fields = getattr(self.sampler, "_fields", ())
        own = {name: getattr(self.sampler, name) for name in fields if isinstance(getattr(self.sampler, name), float)}
        if eta is not None:
            if "eta" not in own:
                raise InputError(f"eta={eta} given, but the sampler {type(self.sampler).__name__} has none: use ddim")
            if not 0 <= eta <= 1:
                raise InputError(f"eta={eta} must be between 0 and 1")
            own["eta"] = eta
        return {name: np.float32(value) for name, value in own.items()}

    def _check_guide(self) -> None:
        if self._guide is None:
            return
        if not isinstance(self._guide, DiffusionPipeline):
            raise InputError(f"a guide is a diffusion model: this one is a {type(self._guide).__name__}")
        ours, theirs = ((p.image.shape, p.schedule.num_train_timesteps) for p in (self, self._guide))
        if ours != theirs:
            raise InputError(f"the guide's images and number of steps, {theirs}, are not those of the model, {ours}")
        ends = np.array([0, (ours[1] or 2) - 1])
        if not np.allclose(self.schedule.level(ends).sigma, self._guide.schedule.level(ends).sigma):
            raise InputError("the guide was trained with another noise schedule than the model")

    def guidance(
        self,
        labels: Any = None,
        scale: float | None = None,
        interval: Sequence[float] | None = None,
        rescale: float | None = None,
    ) -> Guidance:
        """The numbers of guidance, the config's where None is given; InputError where they can't be followed."""
        numbers = self.config.guidance(scale, interval, rescale)
        numbers.check(has_origin=self._guide is not None or self.has_null_class)
        # The config's scale is for images with a label: without, both predictions are those of the null class.
        if self._guide is None and scale not in (None, 1) and labels is None:
            raise InputError(f"guidance_scale={scale} needs a label to go towards")
        return numbers

    def rows(
        self, num: int, *, seed: int, first: int = 0, labels: int | Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Each image's index and, for a conditional model, label: [num]. InputError for values out of range."""
        rows = {"index": image_indices(num, seed=seed, first=first)}
        if self.model.num_classes is None:
            if labels is not None:
                raise InputError(f"label {labels} given, but this model was trained without labels: leave it out")
            return rows
        return {**rows, "label": self._labels(labels, num)}

    def _times(self, t: int | float | Array, num: int) -> Array:
        """t as the schedule takes it; InputError unless it is one time, or one an image, within the schedule."""
        if np.shape(t) not in ((), (num,)):
            raise InputError(f"t of shape {list(np.shape(t))} must be one step, or one for each of {num} images")
        total = self.schedule.num_train_timesteps
        kind, last = (np.floating, 1) if total is None else (np.integer, total - 1)
        if not isinstance(t, jax.core.Tracer):  # a traced value can't be looked at
            times = np.asarray(t, np.float32) if total is None else np.asarray(t)
            if not np.issubdtype(times.dtype, kind) or times.min() < 0 or times.max() > last:
                what = "a time" if total is None else "an integer step"
                raise InputError(f"t={t} must be {what}, or one an image, between 0 and {last}")
        return jnp.asarray(t, jnp.float32 if total is None else jnp.int32)

    def _labels(self, labels: int | Sequence[int] | None, num: int, highest: int | None = None) -> np.ndarray:
        """One label an image [num]; highest, by default the last class, may be the null class."""
        classes = self.model.num_classes
        if labels is None and not self.has_null_class:
            raise InputError(f"this model was trained with labels only: give a label between 0 and {classes - 1}")
        if labels is None:
            return np.full(num, classes, np.int32)  # the null class
        labels = np.asarray(labels)
        if labels.shape not in ((), (num,)):
            raise InputError(f"{labels.size} labels for {num} images: give one for all or one an image")
        highest = classes - 1 if highest is None else highest
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() > highest:
            raise InputError(f"label {labels} is not a class between 0 and {classes - 1}")
        return np.broadcast_to(labels.astype(np.int32), (num,)).copy()


class Ticking(NamedTuple):
    """A sampler that calls tick() on the host at each step."""

    sampler: Sampler
    tick: Callable[[], None]

    def init(self, x: Array, num_steps: int | Array) -> object:
        return self.sampler.init(x, num_steps)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: object, keys: Array) -> Step:
        jax.debug.callback(self.tick)
        return self.sampler.step(denoise_fn, level_t, level_s, x, carry, keys)
