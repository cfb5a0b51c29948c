"""Images as files: grids as PNG, the reverse process as GIF, arrays as npz."""

import contextlib
import errno
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from marble.data.images import as_picture
from marble.errors import RunError
from marble.storage import is_remote

SMALL = 256
"""Grids narrower or lower than this many pixels are enlarged, pixel by pixel, so that a person can read them."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk, or of someone's part of it, that has no room left."""


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """uint8 images [b h w c] side by side, one pixel of white between: one image [H W c], by default nearly square."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + 1, width + 1, channels), 255, np.uint8)
    cells[:count, :height, :width] = images
    whole = cells.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    return whole.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def picture(image: np.ndarray) -> Image.Image:
    """A PIL image of uint8 [h w c], c = 1 or 3, enlarged if it is small."""
    scale = max(1, math.ceil(SMALL / min(image.shape[:2])))
    plain = as_picture(image)
    return plain.resize((plain.width * scale, plain.height * scale), Image.Resampling.NEAREST)


def save_png(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Writes a grid of uint8 images [b h w c]."""
    with replacing(path) as file:
        picture(grid(images, columns)).save(file, format="PNG")


def save_gif(path: Path, frames: np.ndarray, columns: int | None = None, *, seconds: float = 4.0) -> None:
    """Writes grids of uint8 frames [f b h w c] as an animation that lasts so long, then rests a second on the last."""
    pictures = [picture(grid(frame, columns)) for frame in frames]
    durations = [max(20, round(1000 * seconds / len(pictures)))] * len(pictures)
    durations[-1] = 1000
    with replacing(path) as file:
        pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def save_npz(path: Path, images: np.ndarray) -> None:
    """Writes uint8 images [b h w c] as ``arr_0``, which the ADM evaluator and others read."""
    with replacing(path) as file:
        np.savez(file, arr_0=images)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of path when it is whole; RunError, and nothing is left, when it can't be written."""
    if is_remote(str(path)):
        with io.BytesIO() as file:  # for a file of an object store is stored when it is closed, whole or not
            yield file
            path.write_bytes(file.getvalue())
        return
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it may never have been made
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or error
        elsewhere = "give another name, or a folder that is there and may be written to"
        remedy = "make room on its disk, or write to another folder" if error.errno in FULL else elsewhere
        raise RunError(f"cannot write {path} ({reason}): {remedy}") from error
