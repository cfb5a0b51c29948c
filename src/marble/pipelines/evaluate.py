"""How likely a model finds images: the compiled bound behind ``marble evaluate``, in bits a dimension.

Image i of a split has its own key, and every number drawn for it comes from that key and the step: its bits are the
same whatever else is evaluated, up to rounding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import numpy as np
from tqdm import tqdm

from marble.data.examples import Examples
from marble.data.loader import eval_batches
from marble.data.preprocess import to_float
from marble.diffusion import (
    BoundTerms,
    bound_terms,
    continuous_bound_terms,
    discretised_gaussian_log_prob,
    tanh_discretised_gaussian_log_prob,
)
from marble.diffusion.process import VarianceType
from marble.errors import InputError
from marble.pipelines.rows import check_seed, fitting_batch_size, integer_images, whole
from marble.pipelines.tally import BitsPerDim, Tally
from marble.pipelines.unconditional import DiffusionPipeline
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
DecoderName = Literal["exact", "tanh"]
DivergenceName = Literal["hutchinson", "exact"]
DequantisationName = Literal["variational", "uniform"]

CONTINUOUS_POINTS = 1000
"""Times at which the bound in continuous time is measured, for each image."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """How the likelihood under the probability flow is computed: see ``marble.sampling.ode_likelihood``."""

    num_steps: int = 100
    """Steps of order 4, each with four calls of the network and its derivative."""
    divergence: DivergenceName = "hutchinson"
    """hutchinson: one vector of signs an image; exact: one derivative for each dimension of an image."""
    dequantisation: DequantisationName = "variational"
    """variational: by the forward process at its least noise, with the decoder; uniform: within the bins."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise InputError(f"{self.num_steps} steps of the probability flow: give at least 1")
        _check_name("divergence", self.divergence, get_args(DivergenceName))
        _check_name("dequantisation", self.dequantisation, get_args(DequantisationName))


def bits_per_dim(
    pipe: DiffusionPipeline,
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
    InputError for values out of range, and for images or labels that are not the model's.
    """
    if not isinstance(pipe, DiffusionPipeline):
        raise InputError(
            f"{type(pipe).__name__} given: this measures a DiffusionPipeline; a VAEPipeline has its own bits_per_dim"
        )
    num = _num_images(examples, num)
    check_seed(seed)
    if decoder is not None:
        _check_name("decoder", decoder, DECODERS)
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
        for batch in eval_batches(examples, batch_size=size, num_examples=num, **of_process):
            _check_batch(batch, pipe)
            terms, nll, mask = compiled(pipe.params, pipe.mapping.put_part(batch), np.uint32(seed))
            tally.add(terms, nll, mask > 0)
        jax.effects_barrier()
    return tally.result(dimensions=int(np.prod(pipe.image.shape)))


def default_variance_type(pipe: DiffusionPipeline) -> VarianceType | None:
    """The variance of the reverse steps where none is given: the sampler's, or else the model's; None without steps."""
    if pipe.schedule.num_train_timesteps is None:
        return None
    return getattr(pipe.sampler, "variance_type", pipe.variance_type)


def num_terms(pipe: DiffusionPipeline) -> int:
    """How many terms the bound has beside L_T, which is also the number of calls of the network for them."""
    total = pipe.schedule.num_train_timesteps
    return CONTINUOUS_POINTS + 1 if total is None else total


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The compiled part: from a batch of the loader to nats."""

    pipe: DiffusionPipeline
    variance_type: VarianceType | None
    decoder: DecoderName
    flow: Flow | None
    tick: Callable[[], Any] | None

    def batch(self, params: Any, batch: dict[str, Array], seed: Array) -> tuple[BoundTerms, Array | None, Array]:
        """The bound's terms, -log p(x_0) under the flow [b], and the batch's mask [b]."""
        x_0 = to_float(batch["image"], self.pipe.image.levels)
        context = {"label": batch["label"]} if self.pipe.model.num_classes is not None else None
        # Three keys an image: the noise of the terms, where on the curve they are, the flow's.
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(image_keys(seed, batch["example"]))
        denoise_fn = self.pipe.denoise_fn(params)

        def noise(step: Array) -> Array:
            return noise_like(fold_keys(keys[:, 0], step), x_0)

        terms = self._bound(self.pipe.clipped_denoise_fn(params), x_0, noise, keys[:, 1], context)
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


def _num_images(examples: Examples, num: int | None) -> int:
    """How many images are measured; InputError for what are no examples, or for more than there are."""
    if not isinstance(examples, Examples):
        raise InputError(f"examples of type {type(examples).__name__}: give ArrayExamples(image=...) of an array")
    if not len(examples):
        raise InputError("0 examples given: give at least 1")
    num = len(examples) if num is None else whole("num", num)
    if not 1 <= num <= len(examples):
        raise InputError(f"num={num} must be between 1 and {len(examples)}, the number of images in the split")
    return num


def _check_batch(batch: dict[str, np.ndarray], pipe: DiffusionPipeline) -> None:
    """InputError unless images and labels of a batch are the model's: an embedding takes any label without a word."""
    integer_images(batch["image"], pipe.image)
    classes = pipe.model.num_classes
    if classes is None:
        return
    if "label" not in batch:
        raise InputError(f"examples without labels: this model was trained with {classes} classes, give their labels")
    if batch["label"].min() < 0 or batch["label"].max() >= classes:
        raise InputError(
            f"labels from {batch['label'].min()} to {batch['label'].max()}: this model's are 0 to {classes - 1}"
        )


def _check_name(what: str, name: str, names: Any) -> None:
    if name not in names:
        raise InputError(f"{what} {name!r} is not one of {', '.join(names)}")
