"""Samples of a trained model as a set of images, drawn batch by batch: image i depends on the seed and i alone."""

import dataclasses
import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from marble.errors import InputError
from marble.evaluation.image_sets import ImageSet
from marble.pipelines.rows import check_seed

OF_CONFIG = ("timestep_spacing", "clip_sample", "guidance_scale", "guidance_interval", "guidance_rescale")
"""What a stamp says of a config's section ``sampling``, given anew or not."""


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn; what is None is the config's. See ``DiffusionPipeline.sample``."""

    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    classifier_scale: float | None = None
    guidance_scale: float | None = None
    guidance_interval: Sequence[float] | None = None
    guidance_rescale: float | None = None
    label: str | int | None = None
    text: Sequence[str] | None = None
    """Prompts, which the images take in turn."""
    negative_text: Sequence[str] | None = None
    """What guidance goes away from, in turn too."""
    batch_size: int | None = None

    def given(self) -> dict[str, Any]:
        """Those of them that ``sample`` is told for every image."""
        guided = ("classifier_scale", "guidance_scale", "guidance_interval", "guidance_rescale")
        names = ("sampler", "steps", "eta", *guided)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def of_pipeline(
    pipe: Any, num: int, options: SampleOptions, *, name: str, as_float: bool = False, params: Any = None
) -> ImageSet:
    """The first num images of the run ``options.seed``.

    A class-conditional model draws classes at random, by the seed, or the one that is given; one of texts its prompts.
    InputError for a model of texts without any.
    """
    check_seed(options.seed)
    if num < 1:
        raise InputError(f"{num} samples asked for: give at least 1")
    asked = _Asked(pipe, options)

    def rows(indices: np.ndarray) -> np.ndarray:
        request = {**options.given(), **asked.of(indices)}
        first = int(indices[0])
        whole = dict(seed=options.seed, first=first, batch_size=options.batch_size, as_float=as_float, params=params)
        return pipe.sample(int(indices[-1]) + 1 - first, **whole, **request)[indices - first]

    texts = in_turn(options.text, np.arange(num)) if options.text else None
    described = {**sampling_described(pipe, options), **asked.described()}
    at_once = options.batch_size or pipe.config.batch_size
    return ImageSet(name, num, tuple(pipe.image.shape), rows, texts, described, at_once)


def sampling_described(pipe: Any, options: SampleOptions) -> dict[str, Any]:
    """What the stamp says of how samples were drawn: the config's values where none were given."""
    config = {field.name: getattr(pipe.config, field.name) for field in dataclasses.fields(pipe.config)}
    of_config = {key: config[key] for key in OF_CONFIG if key in config}
    return {
        **of_config,
        **options.given(),
        "sampler": describe(pipe.sampler_of(options.sampler)) if hasattr(pipe, "sampler_of") else "none",
        "steps": int(pipe.num_steps() if options.steps is None else options.steps),
        "seed": options.seed,
    }


def describe(sampler: Any) -> str:
    """A sampler with its settings that are not at their defaults."""
    defaults = {name: p.default for name, p in inspect.signature(type(sampler)).parameters.items()}
    changed = [f"{name}={value}" for name, value in sampler._asdict().items() if value != defaults.get(name)]
    return f"{type(sampler).__name__}({', '.join(changed)})"


def hash_of(texts: Sequence[str]) -> str:
    """Of prompts, in their order; one stands for itself."""
    return texts[0] if len(texts) == 1 else hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def in_turn(texts: Sequence[str], indices: np.ndarray) -> list[str]:
    """The text of each image."""
    return [texts[i % len(texts)] for i in indices]


def drawn_classes(indices: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """The class of each image of a run: at random, for in turn they would be no independent draws of the model's."""
    drawn = np.random.default_rng((seed, num_classes)).random(int(indices.max()) + 1)
    return (num_classes * drawn[indices]).astype(np.int64)


class _Asked:
    """What each image of a run is asked for, by its index."""

    def __init__(self, pipe: Any, options: SampleOptions) -> None:
        read = getattr(getattr(pipe, "conditioner", None), "requests", ())
        self._options, self._of_texts, self._of_labels = options, "text" in read, "labels" in read
        self._num_classes = getattr(getattr(pipe, "conditioner", None), "num_classes", None)
        if self._of_texts and not options.text:
            raise InputError("the model draws from texts: give the prompts, --text '...' or --text @FILE")
        is_told = {"text": self._of_texts, "negative_text": self._of_texts, "label": self._of_labels}
        for name, is_read in is_told.items():
            if getattr(options, name) is not None and not is_read:
                raise InputError(f"--{name} is for other models, and this one is not told any: leave it out")

    def of(self, indices: np.ndarray) -> dict[str, Any]:
        """The request of consecutive images, from the first of these to the last."""
        whole = np.arange(int(indices[0]), int(indices[-1]) + 1)
        if self._of_texts:
            negative = self._options.negative_text
            against = {"negative_text": in_turn(negative, whole)} if negative else {}
            return {"text": in_turn(self._options.text, whole), **against}
        if not self._of_labels:
            return {}
        if self._options.label is not None:
            return {"labels": self._options.label}
        return {"labels": drawn_classes(whole, self._num_classes, self._options.seed)}

    def described(self) -> dict[str, Any]:
        if self._of_texts:
            given = {name: getattr(self._options, name) for name in ("text", "negative_text")}
            return {name: hash_of(texts) for name, texts in given.items() if texts}
        if not self._of_labels:
            return {}
        return {"labels": "at random" if self._options.label is None else str(self._options.label)}
