"""Images from a trained model: the compiled sampler behind ``marble.load(workdir).sample`` and ``marble sample``."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from marble.data.preprocess import to_uint8
from marble.diffusion import Schedule, denoiser
from marble.errors import InputError
from marble.parallel import compiler_options, data_mesh, put_batch, replicated
from marble.pipelines.rows import batches, fitting_batch_size, image_indices
from marble.sampling import Frames, Sampler, guidance, image_keys, levels, sample
from marble.sampling.grid import TimestepSpacing
from marble.typing import Array, Context, DenoiseFn, Prediction


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
    num_steps: int | None = None
    """None is every step of training."""
    timestep_spacing: TimestepSpacing = "linspace"
    batch_size: int = 64
    """Images in one call of the compiled sampler; a last, smaller batch is padded to it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"sampling.batch_size={self.batch_size} must be at least 1")


class DiffusionPipeline:
    """A model, its schedule and a sampler: one compiled program for any number of images and steps.

    ``params`` and ``apply`` are public; ``pipe.apply(params, x_t, t, context)`` is the network, a pure function.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        params: Any,
        schedule: Schedule,
        image: ImageSpec,
        sampler: Sampler,
        config: SamplingConfig,
        has_null_class: bool = False,
    ) -> None:
        """has_null_class: whether the model was also trained without labels, and so can sample without."""
        self.model, self.schedule, self.image, self.sampler, self.config = model, schedule, image, sampler, config
        self._has_null_class = has_null_class
        self._mesh = data_mesh()
        self.params = jax.device_put(params, replicated(self._mesh))
        self._bar: tqdm | None = None
        self._compiled = jax.jit(
            self._sample_batch,
            static_argnames=("num_frames", "ticking"),
            compiler_options=compiler_options(gradients=False),
        )
        self._denoise = jax.jit(self._predict)

    def apply(self, params: Any, x_t: Array, t: Array, context: Context | None = None) -> Array:
        """The network's output [b h w c] for x_t [b h w c] and steps t [b]."""
        return self.model.apply({"params": params}, x_t, t, context)

    def denoise(self, x_t: Array, t: int | Array, context: Context | None = None) -> Prediction:
        """The Prediction (.eps and .x_0, not clipped) for x_t [b h w c] at steps t, an integer or [b], in 0..T-1."""
        total = self.schedule.num_train_timesteps
        if not isinstance(t, jax.core.Tracer):  # a traced value can't be looked at
            steps = np.asarray(t)
            if not np.issubdtype(steps.dtype, np.integer) or steps.min() < 0 or steps.max() >= total:
                raise InputError(f"t={t} must be an integer step, or one an image, between 0 and {total - 1}")
        return self._denoise(self.params, jnp.asarray(x_t), jnp.asarray(t, jnp.int32), context)

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        labels: int | Sequence[int] | None = None,
        steps: int | None = None,
        first: int = 0,
        batch_size: int | None = None,
        num_frames: int = 0,
        params: Any = None,
        as_float: bool = False,
        progress: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, Frames]:
        """num images [num h w c]: uint8 0..255, or float32 in [-1, 1] with as_float.

        They are the images first .. first + num - 1 of the run ``seed``; each depends on its index alone. labels is one
        class for all or one an image, None the null class; steps is at most T; params replaces the pipeline's own.
        With num_frames returns (images, Frames [num_frames num h w c]), the way from noise. A number of images per
        call (batch_size) or of frames that was not used before is compiled first. InputError for values out of range.
        """
        size = fitting_batch_size(self.config.batch_size if batch_size is None else batch_size, self._mesh)
        num_steps = self._num_steps(steps)
        rows = self.rows(num, seed=seed, first=first, labels=labels)
        options = dict(num_frames=min(num_frames, num_steps), ticking=progress)
        grid = levels(self.schedule, num_steps, self.config.timestep_spacing, length=self.schedule.num_train_timesteps)
        params = self.params if params is None else params
        calls = -(-num // size)
        results = []
        with tqdm(total=calls * num_steps, unit="step", disable=None if progress else True) as self._bar:
            for host_batch in batches(rows, size):
                batch = put_batch(self._mesh, host_batch)
                images, frames = self._compiled(params, batch, np.uint32(seed), grid, np.int32(num_steps), **options)
                results.append(jax.device_get((self._finish(images, as_float), jax.tree.map(self._finish, frames))))
        images = np.concatenate([images for images, _ in results])[:num]
        frames = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :num], *[f for _, f in results])
        return (images, frames) if num_frames else images

    def denoise_fn(self, params: Any, *, ticking: bool = False) -> DenoiseFn:
        """What the sampler asks: the network with these parameters, its x_0 clipped if the config says so."""

        def model(x_t, t, context):
            if ticking:
                jax.debug.callback(self._tick)
            return self.apply(params, x_t, t, context)

        denoise_fn = denoiser(model, self.schedule)
        return guidance.static_threshold(denoise_fn) if self.config.clip_sample else denoise_fn

    def _sample_batch(self, params, batch, seed, grid, num_steps, *, num_frames, ticking):
        context = {"label": batch["label"]} if "label" in batch else None
        denoise_fn = self.denoise_fn(params, ticking=ticking)
        keys = image_keys(seed, batch["index"])
        result = sample(
            denoise_fn,
            self.sampler,
            grid,
            keys,
            self.image.shape,
            context=context,
            num_steps=num_steps,
            num_frames=num_frames,
        )
        return result if num_frames else (result, None)

    def _predict(self, params, x_t, t, context):
        return denoiser(lambda *inputs: self.apply(params, *inputs), self.schedule)(
            x_t, self.schedule.level(t), context
        )

    def _tick(self) -> None:
        self._bar.update()

    def _finish(self, images: Array, as_float: bool = False) -> Array:
        return jnp.clip(images, -1, 1) if as_float else to_uint8(images, self.image.levels)

    def _num_steps(self, steps: int | None) -> int:
        steps = self.config.num_steps if steps is None else steps
        return self.schedule.num_train_timesteps if steps is None else steps

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

    def _labels(self, labels: int | Sequence[int] | None, num: int) -> np.ndarray:
        classes = self.model.num_classes
        if labels is None and not self._has_null_class:
            raise InputError(f"this model was trained with labels only: give a label between 0 and {classes - 1}")
        if labels is None:
            return np.full(num, classes, np.int32)  # the null class
        labels = np.asarray(labels)
        if labels.shape not in ((), (num,)):
            raise InputError(f"{labels.size} labels for {num} images: give one for all or one an image")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
            raise InputError(f"label {labels} is not a class between 0 and {classes - 1}")
        return np.broadcast_to(labels.astype(np.int32), (num,)).copy()
