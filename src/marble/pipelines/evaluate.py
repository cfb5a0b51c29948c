"""How likely a model finds images: the compiled bound behind ``marble evaluate``, in bits a dimension.

Image i of a split has its own key, and every number drawn for it comes from that key and the step: its bits are the
same whatever else is evaluated, up to rounding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from marble.data.examples import Examples
from marble.data.loader import eval_batches
from marble.data.preprocess import to_float
from marble.diffusion import (
    BoundTerms,
    NoiseSchedule,
    bound_terms,
    continuous_bound_terms,
    discretised_gaussian_log_prob,
    tanh_discretised_gaussian_log_prob,
)
from marble.diffusion.process import VarianceType
from marble.errors import InputError
from marble.pipelines.denoiser import AllParams, TrainedDenoiser
from marble.pipelines.measured import DecoderName, Flow, Measured, MeasureOptions, check_name, num_images
from marble.pipelines.rows import check_seed, fitting_batch_size, integer_images
from marble.pipelines.tally import BitsPerDim, Estimate, Tally
from marble.sampling import fold_keys, image_keys, noise_like
from marble.sampling.ode_likelihood import (
    check_uniform,
    ends,
    exact_divergence,
    hutchinson,
    ode_log_prob,
    uniform_nll,
    variational_nll,
)
from marble.typing import Array, Context, DenoiseFn

DECODERS = {"exact": discretised_gaussian_log_prob, "tanh": tanh_discretised_gaussian_log_prob}

CONTINUOUS_POINTS = 1000
"""Times at which the bound in continuous time is measured, for each image."""


def bits_per_dim(
    pipe: TrainedDenoiser,
    examples: Examples,
    *,
    num: int | None = None,
    seed: int = 0,
    variance_type: VarianceType | None = None,
    decoder: DecoderName | None = None,
    flow: Flow | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> BitsPerDim:
    """The variational bound on these images under a pipeline's model, and with ``flow`` their likelihood under that.

    examples hold integers 0..levels-1, as a data set's do (``ArrayExamples(image=...)`` of an array); num takes so many
    of them, evenly spaced. variance_type is that of the reverse steps, by default the sampler's, or the model's where
    the sampler has none; decoder is exact by default; predictions are clipped as the pipeline clips them, for the bound
    alone. A schedule in continuous time has the bound and the decoder of Kingma et al. 2021, at 1,000 random times an
    image, and takes neither. batch_size is by default the config's; no more images than there are go in one call.
    InputError for values out of range, and for images, or what goes with them, that are not the model's.
    """
    if not isinstance(pipe, TrainedDenoiser):
        raise InputError(
            f"{type(pipe).__name__} given: this measures a DiffusionPipeline; a VAEPipeline has its own bits_per_dim"
        )
    check_of_pixels(pipe, "bits a dimension")
    num = num_images(examples, num)
    check_seed(seed)
    if decoder is not None:
        check_name("decoder", decoder, DECODERS)
    for name, value in {"variance_type": variance_type, "decoder": decoder}.items():
        if value is not None and pipe.schedule.num_train_timesteps is None:
            raise InputError(f"{name} {value!r} is for schedules in steps, this is in continuous time: leave it out")
    if flow is not None and flow.dequantisation == "uniform":
        check_uniform(pipe.image.levels, pipe.schedule.level_at(ends(pipe.schedule)[0]))
    size = fitting_batch_size(pipe.config.batch_size if batch_size is None else batch_size, pipe.mapping, num=num)
    calls = 4 * flow.num_steps if flow else 0
    tally = Tally()
    with tqdm(
        total=-(-num // size) * (num_terms(pipe) + calls), unit="step", disable=None if progress else True
    ) as bar:
        program = Program(
            pipe=pipe,
            variance_type=variance_type or default_variance_type(pipe),
            decoder=decoder or "exact",
            flow=flow,
            tick=bar.update if progress else None,
        )
        compiled = pipe.mapping.compile_rows(program.batch, out_axes=(BoundTerms(0, 1, 1), 0, 0))
        of_process = dict(process_index=jax.process_index(), process_count=jax.process_count())
        for batch in eval_batches(pipe.conditioner.read(examples), batch_size=size, num_examples=num, **of_process):
            integer_images(batch["image"], pipe.image)
            pipe.conditioner.check_batch(batch)
            terms, nll, mask = compiled(pipe.all_params(), pipe.mapping.put_part(batch), np.uint32(seed))
            tally.add(terms, nll, mask > 0)
        jax.effects_barrier()
    return tally.result(dimensions=int(np.prod(pipe.image.shape)))


def check_of_pixels(pipe: TrainedDenoiser, what: str) -> None:
    """InputError, which begins with what is asked for, where latents diffuse."""
    if pipe.codec.spec.levels is None:
        raise InputError(f"{what} are of models of pixels, and this one's latents say no probability of an image")


def default_variance_type(pipe: TrainedDenoiser) -> VarianceType | None:
    """The variance of the reverse steps where none is given: the sampler's, or else the model's; None without steps."""
    if pipe.schedule.num_train_timesteps is None:
        return None
    return getattr(pipe.sampler, "variance_type", pipe.variance_type)


def num_terms(pipe: TrainedDenoiser) -> int:
    """How many terms the bound has beside L_T, which is also the number of calls of the network for them."""
    total = pipe.schedule.num_train_timesteps
    return CONTINUOUS_POINTS + 1 if total is None else total


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The compiled part: from a batch of the loader to nats."""

    pipe: TrainedDenoiser
    variance_type: VarianceType | None
    decoder: DecoderName
    flow: Flow | None
    tick: Callable[[], Any] | None

    def batch(self, params: AllParams, batch: dict[str, Array], seed: Array) -> tuple[BoundTerms, Array | None, Array]:
        """The bound's terms, -log p(x_0) under the flow [b], and the batch's mask [b]."""
        x_0 = to_float(batch["image"], self.pipe.image.levels)
        context = params.conditioner.of_rows(batch)
        # Three keys an image: the noise of the terms, where on the curve they are, the flow's.
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(image_keys(seed, batch["example"]))
        denoise_fn = self.pipe.denoise_fn(params.model)

        def noise(step: Array) -> Array:
            return noise_like(fold_keys(keys[:, 0], step), x_0)

        terms = self._bound(self.pipe.clipped_denoise_fn(params.model), x_0, noise, keys[:, 1], context)
        if self.flow is None:
            return terms, None, batch["mask"]
        nll = self._flow(denoise_fn, x_0, noise(0), terms.by_step[0], keys[:, 2], context)
        return terms, nll, batch["mask"]

    def _bound(self, denoise_fn: DenoiseFn, x_0, noise, keys: Array, context: Context | None) -> BoundTerms:
        ticking = self._ticking(denoise_fn)
        given = dict(x_0=x_0, noise=noise, levels=self.pipe.image.levels, context=context)
        if self.pipe.schedule.num_train_timesteps is not None:
            decoder = DECODERS[self.decoder]
            return bound_terms(ticking, self.pipe.schedule, **given, variance_type=self.variance_type, decoder=decoder)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=x_0.dtype))
        offset = lambda k: uniform(fold_keys(keys, k))  # noqa: E731
        return continuous_bound_terms(ticking, self.pipe.schedule, **given, num_steps=CONTINUOUS_POINTS, offset=offset)

    def _flow(
        self, denoise_fn: DenoiseFn, x_0, noise: Array, L_0: Array, keys: Array, context: Context | None
    ) -> Array:
        level, shape = self.pipe.schedule.level_at(ends(self.pipe.schedule)[0]), x_0.shape[1:]
        if self.flow.dequantisation == "uniform":
            uniform = jax.vmap(lambda key: jax.random.uniform(key, shape, x_0.dtype, minval=-1, maxval=1))
            within = uniform(fold_keys(keys, 0))
            x_t = level.alpha * (x_0 + within / (self.pipe.image.levels - 1))
        else:
            x_t = level.alpha * x_0 + level.sigma * noise
        signs = jax.vmap(lambda key: jax.random.rademacher(key, shape, x_0.dtype))(fold_keys(keys, 1))
        log_prob = ode_log_prob(
            denoise_fn,
            self.pipe.schedule,
            x_t,
            divergence=self._ticking(exact_divergence if self.flow.divergence == "exact" else hutchinson(signs[None])),
            num_steps=self.flow.num_steps,
            context=context,
        )
        if self.flow.dequantisation == "uniform":
            return uniform_nll(log_prob, size=x_0[0].size, level=level, levels=self.pipe.image.levels)
        return variational_nll(log_prob, noise=noise, level=level, reconstruction=L_0)

    def _ticking(self, function: Callable) -> Callable:
        """The function, moving the bar when it is called."""

        def ticked(*arguments):
            if self.tick is not None:
                jax.debug.callback(lambda: self.tick())
            return function(*arguments)

        return ticked


def options_unread(schedule: NoiseSchedule) -> dict[str, str]:
    """The options that a model of this schedule does not read, and why."""
    if schedule.num_train_timesteps is not None:
        return {}
    return dict.fromkeys(
        ("variance_type", "decoder"), "is for schedules in steps, and this model's is in continuous time"
    )


def measured_bound(pipe: Any, examples: Examples, options: MeasureOptions, *, progress: bool) -> Measured:
    """The bound under a diffusion pipeline, and the likelihood under its probability flow."""
    found = bits_per_dim(pipe, examples, **vars(options), progress=progress)
    in_steps = pipe.schedule.num_train_timesteps is not None
    variance_type = options.variance_type or default_variance_type(pipe)
    decoder = (options.decoder or "exact") if in_steps else None
    settings = {
        "variance_type": variance_type,
        "clip_sample": pipe.config.clip_sample,
        "decoder": decoder,
        "flow": None if options.flow is None else vars(options.flow),
    }
    note = f"; {variance_type}, {decoder} decoder" if in_steps else "; continuous time"
    return Measured(found.num, _rows(found, in_steps, options.flow), settings, note, _kept(found))


def _rows(found: BitsPerDim, in_steps: bool, flow: Flow | None) -> dict[str, Estimate]:
    part = "L_{{t-1}}, t = {}" if in_steps else "L, t in thousandths {}"
    rows = {"L_T": found.prior}
    rows |= {part.format(steps): estimate for steps, estimate in reversed(found.parts.items())}
    rows |= {"L_0": found.reconstruction, "sum: the variational bound": found.total}
    if found.flow is not None:
        rows[f"probability flow, {flow.dequantisation}"] = found.flow
    return rows


def _kept(found: BitsPerDim) -> dict[str, Any]:
    estimates = {"L_T": found.prior, "L_0": found.reconstruction, "bound": found.total, "probability_flow": found.flow}
    return {
        **{name: None if e is None else e._asdict() for name, e in estimates.items()},
        "by_step": {"mean": found.by_step.tolist(), "standard_error": found.by_step_standard_error.tolist()},
        "rate_distortion": {"rate": found.rate.tolist(), "rmse_of_255": found.rmse.tolist()},
    }
