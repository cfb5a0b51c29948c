"""Images from a trained model: the compiled sampler behind ``marble.load(workdir).sample`` and ``marble sample``.

``DiffusionPipeline.sample`` is a request's way from its arguments to images, top to bottom.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

from marble.conditioning import Codec, Conditioner, Unconditional
from marble.data.examples import Examples
from marble.data.preprocess import to_uint8
from marble.diffusion import NoiseSchedule, PredictionType, cosine
from marble.diffusion.process import VarianceType
from marble.errors import InputError
from marble.parallel import DeviceMapping
from marble.pipelines.classifier import Classifier
from marble.pipelines.denoiser import AllParams, TrainedDenoiser
from marble.pipelines.evaluate import measured_bound, options_unread
from marble.pipelines.inversion import inverted
from marble.pipelines.measured import Measured, MeasureOptions
from marble.pipelines.programs import Programs, no_names
from marble.pipelines.progress import OnStep, Ticking, Watcher
from marble.pipelines.rows import batches, checked_noise, fitting_batch_size, whole
from marble.pipelines.settings import SamplingConfig, traced_settings
from marble.sampling import Frames, Sampler, image_keys, sample

STATIC = ("num_frames", "ticking")
"""What changes the program."""


class DiffusionPipeline(TrainedDenoiser):
    """A trained network and a sampler: one compiled program for any number of images and steps."""

    def __init__(
        self,
        *,
        model: nn.Module,
        params: Any,
        schedule: NoiseSchedule | Callable[[Any], NoiseSchedule],
        codec: Codec,
        sampler: Sampler,
        config: SamplingConfig,
        conditioner: Conditioner = Unconditional(),  # noqa: B008
        prediction_type: PredictionType = "eps",
        variance_type: VarianceType = "fixed_large",
        guide: TrainedDenoiser | None = None,
        classifier: Classifier | None = None,
        named_sampler: Callable[[str], Sampler] = no_names,
        self_conditioning: bool = False,
        tells_s: bool = False,
        mapping: DeviceMapping | None = None,
    ) -> None:
        """schedule may be a function of the parameters, as a learned one is.

        codec: between images and what diffuses. conditioner: what the model is told beside x_t and t.
        variance_type: that of the reverse step, where neither a sampler nor a caller says which.
        self_conditioning: whether it was trained to be told its own last estimate of x_0.
        tells_s: whether it was trained to be told where a step ends.
        named_sampler: what makes a sampler of its name, for those that ``sample`` is asked for.
        mapping: how programs run on the devices; by default over all of them.
        classifier: of noisy images, which guides towards the label by ``classifier_scale``.
        guide: a weaker model of the same images and schedule, to go away from (autoguidance, Karras et al. 2024).
        """
        super().__init__(
            model=model,
            params=params,
            schedule=schedule,
            codec=codec,
            config=config,
            conditioner=conditioner,
            prediction_type=prediction_type,
            guide=guide,
            classifier=classifier,
            mapping=mapping,
        )
        self.sampler, self.variance_type = sampler, variance_type
        self.self_conditioning, self.tells_s = self_conditioning, tells_s
        self._bar: tqdm | None = None
        self.watcher = Watcher()
        self._programs = Programs(self._compiled, sampler, named_sampler)

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        steps: int | None = None,
        first: int = 0,
        batch_size: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        guidance_rescale: float | None = None,
        classifier_scale: float | None = None,
        sampler: str | Sampler | None = None,
        eta: float | None = None,
        noise: np.ndarray | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 0,
        params: Any = None,
        as_float: bool = False,
        progress: bool = False,
        on_step: OnStep | None = None,
        **request: Any,
    ) -> np.ndarray | tuple[np.ndarray, Frames]:
        """num images [num h w c]: uint8 0..255, or float32 in [-1, 1] with as_float.

        They are the images first .. first + num - 1 of the run ``seed``; each depends on its index alone. request is
        what the model is told: for a class-conditional one ``labels``, a class for all or one an image, by number or
        name, None the null class; for a text-conditional one ``text`` and ``negative_text``, for all or one an image.
        height and width, for networks that take any, are those of the images, by default the size that it was trained
        on. steps is at most T; params replaces the pipeline's own. The guidance arguments replace the config's (see
        ``SamplingConfig``), and classifier_scale, 1 where there is a classifier, is how far to go along its gradient;
        sampler, a name or a sampler, replaces the pipeline's, and eta its share of new noise. noise [num h w c], of the
        size of N(0, I), takes the place of what is drawn for x_T. With num_frames returns (images, Frames
        [num_frames num h w c]), the way from noise. on_step is called at each step, and shown images as they come to
        be; with it another program runs, of the same images. A number of images per call (batch_size) or of frames, a
        size or a sampler that was not used before is compiled first. InputError for values out of range.
        """
        num, num_frames = whole("num", num), whole("num_frames", num_frames)
        if num_frames < 0:
            raise InputError(f"num_frames={num_frames} must be at least 0")
        codec = self.codec_of(height, width)
        rows = self.rows(num, seed=seed, first=first, request=request, image=codec.image)
        guided = self.guidance(request, guidance_scale, guidance_interval, guidance_rescale, classifier_scale)
        sampler = self._programs.sampler(sampler)
        settings = traced_settings(sampler, eta)
        num_steps = self.num_steps(steps)
        if noise is not None:
            rows["noise"] = checked_noise(noise, (num, *codec.spec.shape))
        params = self.all_params(params, image=codec.image)
        grid = self.grid(num_steps, params.model, sampler)
        arguments = np.uint32(seed), grid, np.int32(num_steps), guided, settings
        if on_step is not None:
            arguments += (on_step.asked(self.mapping),)
        options = dict(num_frames=min(num_frames, num_steps), ticking=progress)

        size = fitting_batch_size(self.config.batch_size if batch_size is None else batch_size, self.mapping)
        results, calls = [], -(-num // size)
        bar = tqdm(total=calls * num_steps, unit="step", disable=None if progress else True)
        with bar as self._bar, self.watcher.open(on_step, num=num, batch_size=size, num_steps=num_steps) as check:
            for host_batch in batches(rows, size):
                images, frames = self._programs.of(sampler)(params, self.mapping.put(host_batch), *arguments, **options)
                results.append((self._finish(images, as_float), jax.tree.map(self._finish, frames)))
                check()
        images = np.concatenate([images for images, _ in results])[:num]
        frames = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :num], *[f for _, f in results])
        return (images, frames) if num_frames else images

    def sampler_of(self, asked: str | Sampler | None = None) -> Sampler:
        """The sampler of a name, or the pipeline's own; InputError for a name that is none."""
        return self._programs.sampler(asked)

    def _compiled(self, sampler: Sampler) -> Any:
        program = functools.partial(self._sample_batch, sampler)
        return self.mapping.compile_rows(program, out_axes=(0, 1), static=STATIC)

    def _sample_batch(
        self, sampler, params, batch, seed, grid, num_steps, guided, settings, every=None, *, num_frames, ticking
    ):
        """The compiled part: from rows [b] to images [b h w c] in [-1, 1]. every is that of an OnStep."""
        sampler = sampler._replace(**settings) if settings else sampler
        sampler = self.watcher.watched(sampler, every, params.codec)
        result = sample(
            self.guided_fn(params, guided, batch),
            Ticking(sampler, lambda: self._bar.update()) if ticking else sampler,
            grid,
            image_keys(seed, batch["index"]),
            params.codec.spec.shape,
            context=params.conditioner.of_rows(batch),
            noise=batch.get("noise"),
            num_steps=num_steps,
            num_frames=num_frames,
            self_conditioning=self.self_conditioning,
            tells_s=self.tells_s,
        )
        x_0, frames = result if num_frames else (result, None)
        # One frame after the other: a decoder's insides are much larger than what it makes.
        return params.codec.decode(x_0), jax.tree.map(lambda way: jax.lax.map(params.codec.decode, way), frames)

    def invert(
        self,
        images: np.ndarray,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        tolerance: float = 1e-6,
        batch_size: int | None = None,
        progress: bool = False,
        **request: Any,
    ) -> np.ndarray:
        """The noise x_T [n h w c] float32 of which ``sample(noise=x_T, sampler="ode")`` makes these images again.

        images [n h w c] are uint8, or floats in [-1, 1]; request, guidance_scale and steps are as in that call. The
        probability flow is followed upward to that tolerance. Of other samplers that draw nothing, ddim, euler and heun
        lead back only with ``use_clipped_model_output``, or unclipped. InputError for values that don't fit.
        """
        options = dict(steps=steps, guidance_scale=guidance_scale, tolerance=tolerance, batch_size=batch_size)
        return inverted(self, images, request, progress=progress, **options)

    def _finish(self, images: np.ndarray, as_float: bool = False) -> np.ndarray:
        return np.clip(images, -1, 1) if as_float else np.asarray(to_uint8(images, self.image.levels))

    def options_unread(self) -> dict[str, str]:
        """The options of ``measure`` that this model does not read, and why."""
        return options_unread(self.schedule)

    def measure(self, examples: Examples, options: MeasureOptions, *, progress: bool = False) -> Measured:
        """Bits a dimension of these examples, for ``marble evaluate``; see ``marble.pipelines.bits_per_dim``."""
        return measured_bound(self, examples, options, progress=progress)

    def lower(self, params: Any, *, batch_size: int | None = None) -> jax.stages.Lowered:
        """The program of ``sample`` for shapes of parameters, of a mesh; what it costs is known once it is compiled."""
        program = self.mapping.jitted_rows(self.program, STATIC)
        return program.lower(*self.call_shapes(params, batch_size=batch_size), num_frames=0, ticking=False)

    @property
    def program(self) -> Callable[..., Any]:
        """The function that ``sample`` compiles; STATIC are its static keywords."""
        return functools.partial(self._sample_batch, self.sampler)

    def call_shapes(self, params: Any, *, batch_size: int | None = None) -> tuple[Any, ...]:
        """The arguments of ``program``, shapes with shardings and numbers, for those shapes of parameters."""
        size = fitting_batch_size(self.config.batch_size if batch_size is None else batch_size, self.mapping)
        num_steps = self.num_steps()
        rows = self.rows(size, seed=0, request=self.conditioner.examples(size))
        # The levels of a learned schedule need its parameters; their shapes are those of any in continuous time.
        grid = self.config.grid(cosine() if self.is_learned else self.schedule, num_steps, self.sampler)
        numbers = np.uint32(0), grid, np.int32(num_steps), self.config.guidance(), traced_settings(self.sampler)
        parts = self.mapping.shapes_of((self.codec, self.conditioner))
        return AllParams(params, None, *parts), self.mapping.row_shapes(rows), *numbers
