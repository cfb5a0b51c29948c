"""The flags of marble sample that make images from images: --init_image, --mask and --interpolate."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from marble.cli import prompts
from marble.errors import InputError
from marble.storage import expanded

BETWEEN = 9
"""Images from A to B of a model of texts, where no number is asked for."""


def define(values: flags.FlagValues) -> None:
    """These flags."""
    text = dict(flag_values=values)
    flags.DEFINE_string("init_image", None, "Image, npz, or folder of images: what to make variations of.", **text)
    flags.DEFINE_float(
        "strength", None, "How much noise they get, 0 to 1, where nothing is left (default 0.5).", **text
    )
    flags.DEFINE_string("mask", None, "Image that is light where --init_image is to be drawn anew.", **text)
    flags.DEFINE_integer("resamples", None, "How often each step of --mask is made (default 10).", **text)
    flags.DEFINE_multi_string("interpolate", None, "A B: two images, to make --num images between them.", **text)
    flags.DEFINE_bool("resize", False, "Cut and resize the images and the mask to the model's size.", **text)


def joined(argv: list[str]) -> list[str]:
    """The words with the two after --interpolate as its two values, each with the flag's name before it."""
    if "--interpolate" not in argv:
        return argv
    at = argv.index("--interpolate")
    ends = [word for word in argv[at + 1 : at + 3] if not word.startswith("--")]
    return [*argv[:at], *(f"--interpolate={end}" for end in ends or [""]), *argv[at + 1 + len(ends) :]]


def ends_of(values: flags.FlagValues) -> list[str] | None:
    """The two names of --interpolate: two words, which may have commas in them, or one, A,B."""
    found = values.interpolate
    return [expanded(end) for end in found[0].split(",")] if found is not None and len(found) == 1 else found


def check(values: flags.FlagValues) -> bool:
    """Whether images are to be made from images; InputError for flags that don't go together."""
    if values.mask is not None and values.init_image is None:
        raise InputError("--mask is for --init_image, the image whose pixels it names: give that too")
    if values.interpolate is not None and values.init_image is not None:
        raise InputError("--interpolate and --init_image are two ways to make images: give one of them")
    ends = ends_of(values)
    if ends is not None and len(ends) != 2:
        raise InputError(f"--interpolate {' '.join(ends)} must be two images: A B")
    edits = values.init_image is not None or values.interpolate is not None
    if values.resize and not edits:
        raise InputError("--resize is for --init_image and --interpolate: leave it out")
    if values.strength is not None and (not edits or values.mask is not None):
        raise InputError("--strength is for --init_image without --mask, and for --interpolate: leave it out")
    if values.resamples is not None and values.mask is None:
        raise InputError("--resamples is for --mask: leave it out")
    for name in ("gif", "batch_size", "guidance_interval", "guidance_rescale", "classifier_scale", "eta"):
        if edits and values[name].present:
            raise InputError(f"--{name} is not for images made from images: leave it out")
    if values.interpolate is not None and values["first"].present:
        raise InputError("--first is not for --interpolate, whose images are one way from A to B: leave it out")
    return edits


def edited(pipe: Any, values: flags.FlagValues) -> np.ndarray:
    """uint8 [num h w c]: images made from those that the flags name."""
    from marble.parallel.agreement import is_first
    from marble.pipelines import editing
    from marble.pipelines.image_files import read_pictures

    asked = dict(steps=values.steps, guidance_scale=values.guidance_scale, labels=values.label)
    options = dict(seed=values.seed, progress=is_first(), **asked)
    strength = 0.5 if values.strength is None else values.strength
    shape = pipe.image.shape
    if values.height is not None or values.width is not None:
        shape = pipe.codec_of(values.height, values.width).image.shape
    if values.interpolate is not None:
        ends = [_read_one(path, shape, values.resize) for path in ends_of(values)]
        options |= {flag: prompts.of_one(flag, values[flag].value) for flag in ("text", "negative_text")}
        num = prompts.number_of_images(values, pipe, BETWEEN)
        return editing.interpolate(pipe, *ends, num=num, strength=strength, **options)
    images = read_pictures(Path(values.init_image), shape, resize=values.resize)
    num = prompts.number_of_images(values, pipe, len(images))
    images = images[(values.first + np.arange(num)) % len(images)]
    options |= dict(first=values.first)
    texts = {"text": values.text, "negative_text": values.negative_text}
    options |= {flag: prompts.in_turn(given, num, values.first) for flag, given in texts.items()}
    if values.mask is None:
        return editing.edit(pipe, images, strength, **options)
    mask = _read_one(values.mask, (*shape[:2], 1), values.resize)[..., 0] >= 128
    if not mask.any():
        raise InputError(f"--mask {values.mask} is white nowhere: there is nothing to draw")
    resamples = 10 if values.resamples is None else values.resamples
    return editing.inpaint(pipe, images, mask, resamples=resamples, **options)


def _read_one(path: str, shape: tuple[int, int, int], resize: bool) -> np.ndarray:
    """The image [h w c] of a file that has one; InputError for several."""
    from marble.pipelines.image_files import read_pictures

    if not path:
        raise InputError("an image's name is empty: give two, A B")
    images = read_pictures(Path(path), shape, resize=resize)
    if len(images) > 1:
        raise InputError(f"{path} has {len(images)} images: give one")
    return images[0]
