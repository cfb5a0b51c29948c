"""Bytes from outside to an image, or why not: what a file says of itself is checked before its pixels are decoded."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from marble.data.images import decode, resize
from marble.demo.limits import Limits
from marble.errors import InputError

NAME = "the upload"
KINDS = {
    "PNG": (b"\x89PNG\r\n\x1a\n", 0, PngImagePlugin.PngImageFile),
    "JPEG": (b"\xff\xd8\xff", 0, JpegImagePlugin.JpegImageFile),
    "WebP": (b"WEBP", 8, WebPImagePlugin.WebPImageFile),
}
"""How files of each kind begin, at which byte, and what reads their headers."""
TAKEN = "give a PNG, JPEG or WebP image"
HEADER_ERRORS = (
    *(OSError, SyntaxError, ValueError, KeyError, IndexError, EOFError, RuntimeError, TypeError, MemoryError),
    *(OverflowError, zlib.error, struct.error),
)
"""What PIL raises for headers that are cut or damaged."""
PAINTED = 64
"""Of 255: how much of a pixel has to be painted over for it to be drawn anew."""


def read_image(content: bytes, shape: tuple[int, int, int], limits: Limits) -> np.ndarray:
    """uint8 [h w c] of that shape, cut to its middle and resized; InputError for what is no image, or too large."""
    height, width, channels = shape
    _check(content, limits)
    try:
        pixels = decode(content, NAME, channels=channels, image_size=None)
    except InputError as error:
        raise InputError(
            f"{NAME} can't be decoded, it was cut or damaged: save it again ({error.__cause__})"
        ) from error
    except HEADER_ERRORS as error:
        raise InputError(f"{NAME} can't be decoded, it is damaged: save it again ({error})") from error
    return resize(pixels, (height, width))


def read_mask(content: bytes, shape: tuple[int, int, int], limits: Limits) -> np.ndarray:
    """bool [h w]: where a layer that was painted on is opaque; InputError for what is no image, or too large."""
    _check(content, limits)
    try:
        with Image.open(io.BytesIO(content)) as layer:
            alpha = np.asarray(layer.convert("RGBA"))[..., 3:]
    except (*HEADER_ERRORS, Image.DecompressionBombError) as error:
        raise InputError(f"the mask can't be decoded: paint it again ({error})") from error
    return resize(np.ascontiguousarray(alpha), shape[:2])[..., 0] >= PAINTED


def stored_upload(payload: Any, folder: Path, limits: Limits) -> bytes:
    """The bytes of a file that the page stored in its folder; InputError where there is none, or it is elsewhere."""
    name = payload.get("path") if isinstance(payload, Mapping) else None
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"there is no image: {TAKEN}")
    path, inside = Path(name).resolve(), folder.resolve()
    try:
        if not path.is_relative_to(inside) or not path.is_file():
            raise InputError("the image is not, or no longer, on the server: upload it again")
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except OSError as error:
        raise InputError("the image is no longer on the server: upload it again") from error


def _check(content: bytes, limits: Limits) -> None:
    """InputError unless content begins as an image that may be decoded."""
    if len(content) > limits.max_bytes:
        raise InputError(f"{NAME} has more than {limits.max_bytes / 2**20:g} MB: make it smaller")
    if not content:
        raise InputError(f"{NAME} is empty: {TAKEN}")
    found = [kind for kind, (magic, at, _) in KINDS.items() if content[at : at + len(magic)] == magic]
    if not found:
        raise InputError(f"{NAME} is {_guessed(content)}: {TAKEN}")
    try:
        # Not Image.open, which has another limit of its own, and would look for other kinds.
        width, height = KINDS[found[0]][2](io.BytesIO(content)).size
    except HEADER_ERRORS as error:
        raise InputError(f"{NAME} is a {found[0]} whose header can't be read: save it again ({error})") from error
    if width * height > limits.max_pixels:
        side = int(limits.max_pixels**0.5)
        raise InputError(
            f"{NAME} has {width} x {height} pixels, more than {limits.max_pixels:,} ({side} x {side}): make it smaller"
        )


def _guessed(content: bytes) -> str:
    """What else a file may be, in words."""
    start = content[:1024].lstrip().lower()
    if b"<svg" in start:
        return "an SVG drawing"
    is_text = not set(content[:1024]) - {9, 10, 13, *range(32, 256)}
    return "a text, not an image" if is_text else "no image of a known kind"
