"""Encoded images to uint8 arrays, by PIL: upright, 8 bits, grey or RGB, transparency over white.

Of 16 bits a channel the higher 8 are taken, grey as in colour.

A resized image is the centred square of its shorter side, filtered by Lanczos with antialiasing (PIL widens the
filter by the scale when it makes an image smaller).
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from marble.errors import InputError

MODES = {1: "L", 3: "RGB"}
GREY_MODES = frozenset({"1", "L"})
DEEP_GREY_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
UNBOUNDED_MODES = frozenset({"I", "F"})
"""Whole numbers of 32 bits, and fractions: what is white in them, nothing says."""
KEPT_FORMATS = frozenset({"PNG", "JPEG"})
ORIENTATION = 0x0112
TURNED_ORIENTATIONS = frozenset({5, 6, 7, 8})


def header_shape(file: Path | IO[bytes], name: str) -> tuple[int, int, int]:
    """[h w c] of an encoded image, upright, c = 1 where it is grey; its pixels are not decoded.

    Raises InputError with `name` where it is not an image, or has pixels of 32 bits.
    """
    with _naming(name), Image.open(file) as image:
        width, height = image.size
        turned = _orientation(image) in TURNED_ORIENTATIONS
        mode = image.mode
        grey = mode in GREY_MODES | DEEP_GREY_MODES and not image.has_transparency_data
    if mode in UNBOUNDED_MODES:
        raise InputError(f"{name} has pixels of kind {mode}: save it with 8 or 16 bits a channel, grey or RGB")
    return (width if turned else height), (height if turned else width), (1 if grey else 3)


def storable(content: bytes, name: str) -> bytes:
    """The image as an 8-bit PNG or JPEG, grey or RGB, upright: as it is where it is one, else a PNG of its pixels.

    Raises InputError with `name` where its pixels can't all be decoded.
    """
    with _naming(name):
        image = Image.open(io.BytesIO(content))
        plain = image.mode in MODES.values() and not image.has_transparency_data
        kept = image.format in KEPT_FORMATS and plain and _orientation(image) == 1
        flat = _flatten(image)
        flat.load()
        encoded = io.BytesIO()
        if not kept:
            flat.save(encoded, "PNG")
    return content if kept else encoded.getvalue()


def decode(content: bytes, name: str, *, channels: int, image_size: int | None) -> np.ndarray:
    """The pixels [h w channels] uint8 of an encoded image; [image_size image_size channels] where one is given."""
    with _naming(name):
        image = _flatten(Image.open(io.BytesIO(content))).convert(MODES[channels])
        return _pixels(_fit(image, image_size), channels)


def resize(image: np.ndarray, image_size: int | tuple[int, int]) -> np.ndarray:
    """The centred square of image [h w c] uint8 at [image_size image_size c], or of shape (h, w); c is 1 or 3."""
    return _pixels(_fit(as_picture(image), image_size), image.shape[-1])


def as_picture(image: np.ndarray) -> Image.Image:
    """The PIL image of the same pixels, uint8 [h w c]; c is 1 or 3."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _fit(image: Image.Image, image_size: int | tuple[int, int] | None) -> Image.Image:
    if image_size is None:
        return image
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def _flatten(image: Image.Image) -> Image.Image:
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode in DEEP_GREY_MODES:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def _orientation(image: Image.Image) -> int:
    """As the header says: PIL would decode a whole PNG to look for more behind its pixels."""
    return image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """PIL's several errors for files that it can't read as one InputError that names the file."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # An unidentified image's own message holds only the address of a buffer.
        reason = "no known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise InputError(f"{name} is not a readable image ({reason}): repair it or take it out") from error
