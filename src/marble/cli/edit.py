"""The flags of marble sample that make images from images: --init_image, --mask and --interpolate."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from marble.errors import InputError


def define(values: flags.FlagValues) -> None:
    """These flags."""
    text = dict(flag_values=values)
    flags.DEFINE_string("init_image", None, "PNG, npz, or folder of PNG: images to make variations of.", **text)
    flags.DEFINE_float(
        "strength", None, "How much noise they get, 0 to 1, where nothing is left (default 0.5).", **text
    )
    flags.DEFINE_string("mask", None, "PNG that is white where --init_image is to be drawn anew.", **text)
    flags.DEFINE_integer("resamples", None, "How often each step of --mask is made (default 10).", **text)
    flags.DEFINE_list("interpolate", None, "A B: two PNG, to make --num images between them.", **text)


def joined(argv: list[str]) -> list[str]:
    """The words with the two after --interpolate as its one value, A,B, which is how absl knows lists."""
    if "--interpolate" not in argv:
        return argv
    at = argv.index("--interpolate")
    ends = [word for word in argv[at + 1 : at + 3] if not word.startswith("--")]
    return [*argv[:at], f"--interpolate={','.join(ends)}", *argv[at + 1 + len(ends) :]]


def check(values: flags.FlagValues) -> bool:
    """Whether images are to be made from images; InputError for flags that don't go together."""
    if values.mask is not None and values.init_image is None:
        raise InputError("--mask is for --init_image, the image whose pixels it names: give that too")
    if values.interpolate is not None and values.init_image is not None:
        raise InputError("--interpolate and --init_image are two ways to make images: give one of them")
    if values.interpolate is not None and len(values.interpolate) != 2:
        raise InputError(f"--interpolate {' '.join(values.interpolate)} must be two PNG: A B")
    edits = values.init_image is not None or values.interpolate is not None
    if values.strength is not None and (not edits or values.mask is not None):
        raise InputError("--strength is for --init_image without --mask, and for --interpolate: leave it out")
    if values.resamples is not None and values.mask is None:
        raise InputError("--resamples is for --mask: leave it out")
    for name in ("gif", "batch_size", "guidance_interval", "guidance_rescale", "eta"):
        if edits and values[name].present:
            raise InputError(f"--{name} is not for images made from images: leave it out")
    if values.interpolate is not None and values["first"].present:
        raise InputError("--first is not for --interpolate, whose images are one way from A to B: leave it out")
    return edits


def edited(pipe: Any, values: flags.FlagValues) -> np.ndarray:
    """uint8 [num h w c]: images made from those that the flags name."""
    from marble.parallel.hosts import is_first
    from marble.pipelines import editing
    from marble.pipelines.image_files import read_images

    asked = dict(steps=values.steps, guidance_scale=values.guidance_scale, labels=values.label)
    options = dict(seed=values.seed, progress=is_first(), **asked)
    strength = 0.5 if values.strength is None else values.strength
    if values.interpolate is not None:
        ends = [_read_one(path, pipe.image.shape) for path in values.interpolate]
        return editing.interpolate(pipe, *ends, num=values.num, strength=strength, **options)
    images = read_images(Path(values.init_image), pipe.image.shape)
    if values.num < 1:
        raise InputError(f"{values.num} images asked for: give at least 1")
    images = images[np.arange(values.num) % len(images)]
    options |= dict(first=values.first)
    if values.mask is None:
        return editing.edit(pipe, images, strength, **options)
    mask = _read_one(values.mask, (*pipe.image.shape[:2], 1))[..., 0] >= 128
    if not mask.any():
        raise InputError(f"--mask {values.mask} is white nowhere: there is nothing to draw")
    resamples = 10 if values.resamples is None else values.resamples
    return editing.inpaint(pipe, images, mask, resamples=resamples, **options)


def _read_one(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The image [h w c] of a file that has one; InputError for several."""
    from marble.pipelines.image_files import read_images

    if not path:
        raise InputError("an image's name is empty: give two, A B")
    images = read_images(Path(path), shape)
    if len(images) > 1:
        raise InputError(f"{path} has {len(images)} images: give one")
    return images[0]
