"""The page's values to calls of the pipeline.

Values come from outside, and need not be what the page's own controls give: each is checked here, against the limits,
or by the pipeline.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from marble.demo.model import OWN_SAMPLER, Model
from marble.errors import InputError
from marble.pipelines import editing
from marble.pipelines.noising import Noised, noised
from marble.pipelines.progress import OnStep

FRAMES = 16
"""Pictures of the way from noise to image, at most."""


class Settings(NamedTuple):
    """What all ways of drawing have, as it was asked for. None, where the page does not have it."""

    text: Any = None
    negative_text: Any = None
    label: Any = None
    num: Any = 1
    steps: Any = 1
    guidance_scale: Any = None
    seed: Any = 0


class Request(NamedTuple):
    """What ``Settings`` come to for one model."""

    num: int
    steps: int
    seed: int
    guidance_scale: float | None
    told: dict[str, Any]
    """What the model is told."""

    @property
    def every(self) -> int:
        """After how many steps images are shown."""
        return -(-self.steps // FRAMES)


def read(model: Model, settings: Settings) -> Request:
    """The request; InputError where a value is none that the page has, or above its limits."""
    return Request(
        num=whole("the number of images", settings.num, 1, model.limits.max_images),
        steps=whole("the number of steps", settings.steps, 1, model.max_steps),
        seed=whole("the seed", settings.seed, 0, 2**32 - 1),
        guidance_scale=_guidance(model, settings),
        told=_told(model, settings),
    )


def draw(model: Model, asked: Request, sampler: Any, on_step: OnStep | None = None) -> np.ndarray:
    """uint8 [num h w c] from noise; sampler is a name."""
    sampler = None if sampler in (None, OWN_SAMPLER) else sampler
    if sampler is not None and sampler not in model.samplers:
        names = ", ".join((OWN_SAMPLER, *model.samplers))
        raise InputError(f"the sampler {str(sampler)[:40]!r} is none of the page's: {names}")
    return model.pipe.sample(
        asked.num, sampler=sampler, batch_size=model.batch_size, on_step=on_step, **_how(asked), **asked.told
    )


def vary(model: Model, asked: Request, image: np.ndarray, strength: Any, on_step: OnStep | None = None) -> np.ndarray:
    """uint8 [num h w c]: an image [h w c], noised part of the way and denoised, num times."""
    strength = number("the strength", strength, 0, 1)
    images = _repeated(model, asked, image)
    made = editing.edit(model.pipe, images, strength, on_step=on_step, **_how(asked), **asked.told)
    return made[: asked.num]


def fill(
    model: Model, asked: Request, image: np.ndarray, mask: np.ndarray, resamples: Any, on_step: OnStep | None = None
) -> np.ndarray:
    """uint8 [num h w c]: an image [h w c] with what mask [h w] names drawn anew, num times."""
    resamples = whole("the number of repetitions", resamples, 1, model.limits.max_resamples)
    if not mask.any():
        raise InputError("nothing is painted over: paint what is to be drawn anew, in a stroke that is wide enough")
    images = _repeated(model, asked, image)
    how = dict(resamples=resamples, on_step=on_step, **_how(asked))
    return editing.inpaint(model.pipe, images, mask, **how, **asked.told)[: asked.num]


def noise(model: Model, asked: Request, image: np.ndarray, share: Any) -> tuple[str, Noised]:
    """An image [h w c] after that share of the way to noise: at which t, in words, and what it is then."""
    share = number("the noise level", share, 0, 1)
    count = model.pipe.schedule.num_train_timesteps
    t = share if count is None else round(share * (count - 1))
    said = f"t = {share:.2f}" if count is None else f"t = {t} of {count - 1}"
    return said, noised(model.pipe, image[None], t, seed=asked.seed, **asked.told)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """value as a whole number; InputError unless it is one from least to most."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value != int(value) or not least <= value <= most:
        raise InputError(f"{name} is {str(value)[:40]}: give a whole number from {least} to {most}")
    return int(value)


def number(name: str, value: Any, least: float, most: float) -> float:
    """value as a float; InputError unless it is one from least to most."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InputError(f"{name} is {str(value)[:40]}: give a number from {least} to {most}")
    return float(value)


def _how(asked: Request) -> dict[str, Any]:
    return dict(seed=asked.seed, steps=asked.steps, guidance_scale=asked.guidance_scale)


def _told(model: Model, settings: Settings) -> dict[str, Any]:
    if model.reads_text:
        texts = {"text": settings.text, "negative_text": settings.negative_text}
        told = {name: _text(name, value, model.limits.max_text) for name, value in texts.items()}
        return {"text": told["text"], "negative_text": told["negative_text"] or None}
    if not model.classes:
        return {}
    known = [label for _, label in model.classes]
    if isinstance(settings.label, bool | float) or settings.label not in known:
        raise InputError(f"the class {str(settings.label)[:40]} is none of the model's {model.classes[-1][1] + 1}")
    return {} if settings.label is None else {"labels": settings.label}


def _text(name: str, value: Any, most: int) -> str:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} is {str(value)[:40]}: give a text")
    if len(value or "") > most:
        raise InputError(f"{name} has {len(value)} characters: give at most {most}")
    return (value or "").strip()


def _guidance(model: Model, settings: Settings) -> float | None:
    """None is the config's; so it is for an image that is told nothing, which is guided nowhere."""
    is_told = model.reads_text or settings.label is not None
    if not model.is_guided or not is_told or settings.guidance_scale is None:
        return None
    return number("the guidance", settings.guidance_scale, 0, model.max_guidance)


def _repeated(model: Model, asked: Request, image: np.ndarray) -> np.ndarray:
    """The image as often as whole batches need it: other numbers would be other programs of the encoder."""
    count = -(-asked.num // model.batch_size) * model.batch_size
    return np.repeat(image[None], count, axis=0)
