"""Images as files of 8 bits, without a loss: npz, a folder of PNG.

Data of fewer than 256 levels are stretched to 0..255 in files, as ``marble sample`` writes them; reading finds the
levels again, and refuses values between them.
"""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from marble.data.folder import SUFFIXES, files_below, is_image
from marble.data.images import MODES, as_picture, decode, header_shape
from marble.data.images import resize as resized
from marble.errors import InputError
from marble.pipelines.pictures import replacing, save_npz

NPZ_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What NumPy raises for npz that are cut, damaged or of something else."""


def stretched(pixels: np.ndarray, levels: int) -> np.ndarray:
    """uint8 0..255 of integers 0..levels-1."""
    return np.round(np.asarray(pixels, np.float64) * 255 / (levels - 1)).astype(np.uint8)


def unstretched(images: np.ndarray, levels: int, name: str) -> np.ndarray:
    """Integers 0..levels-1 of uint8 images; InputError with name where a value is none of the levels'."""
    pixels = np.round(images * ((levels - 1) / 255)).astype(np.int64)
    wrong = images[stretched(pixels, levels) != images]
    if wrong.size:
        raise InputError(f"{name} has the pixel value {wrong[0]}, none of the data's {levels} levels in 0..255")
    return pixels


def read_images(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [n h w c]: ``arr_0`` of an npz, a PNG, or all of a folder by name. InputError unless they are of shape."""
    if path.is_dir():
        files = pngs_of(path)
        if not files:
            raise InputError(f"the folder {path} has no PNG")
        return np.stack([_read_png(file, shape) for file in files])
    if not path.is_file():
        raise InputError(f"there is no file or folder {path}")
    if path.suffix.lower() == ".png":
        return _read_png(path, shape)[None]
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path} is not an npz with the images as arr_0, a PNG, or a folder of PNG: give one of these")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["arr_0"]
    except NPZ_ERRORS as error:
        raise InputError(f"{path} is not an npz with the images as arr_0, or was cut: write it again") from error
    if images.dtype != np.uint8:
        raise InputError(f"{path} has pixels of {images.dtype}: give 8 bits, uint8 from 0 to 255")
    if images.ndim != 4 or images.shape[1:] != tuple(shape) or not len(images):
        raise InputError(f"{path} has images of shape {list(images.shape)}, the model's are [n, {_named(shape)}]")
    return images


def pngs_of(folder: Path) -> list[Path]:
    """The PNG in a folder, by name, but hidden ones."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith("."))


def read_pictures(path: Path, shape: tuple[int, int, int], *, resize: bool = False) -> np.ndarray:
    """uint8 [n h w c] of an npz, an image, or all of a folder: of any kind that training takes, and made like those.

    Upright, grey or RGB as shape says, transparency over white. InputError, naming the file, unless they are of shape;
    with resize they are cut and resized to it.
    """
    if path.suffix.lower() == ".npz" and path.is_file():
        return read_images(path, shape)
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    files = [file for file in files_below(path) if is_image(file)] if path.is_dir() else [path]
    if not files:
        raise InputError(f"the folder {path} has no image ({', '.join(sorted(SUFFIXES))})")
    if not is_image(files[0]):
        raise InputError(f"{path} is not an npz with the images as arr_0, an image, or a folder of images: give one")
    return np.stack([_read_picture(file, shape, resize) for file in files])


def _read_picture(path: Path, shape: tuple[int, int, int], resize: bool) -> np.ndarray:
    height, width, channels = shape
    header_shape(path, str(path))  # refuses what has no 8 bits
    pixels = decode(path.read_bytes(), str(path), channels=channels, image_size=None)
    if resize:
        return resized(pixels, (height, width))
    if pixels.shape != tuple(shape):
        found = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise InputError(
            f"{path} is {found}, the model's images are {height}x{width}: give --resize, or cut it to that"
        )
    return pixels


def write_images(path: Path, images: np.ndarray) -> None:
    """Writes uint8 [n h w c] as the npz of that name, or as 00000.png, 00001.png, ... in the folder."""
    if path.suffix == ".npz":
        path.parent.mkdir(parents=True, exist_ok=True)
        return save_npz(path, images)
    path.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        with replacing(path / f"{number:05}.png") as file:
            as_picture(image).save(file, format="PNG")


def _read_png(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    try:
        with Image.open(path) as image:
            found, pixels = (*image.size[::-1], image.mode), np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable PNG ({error})") from error
    mode = MODES.get(channels)
    if found != (height, width, mode):
        remedy = f"convert it to mode {mode}" if found[:2] == (height, width) else f"resize it to {height}x{width}"
        was = f"{found[0]}x{found[1]} of mode {found[2]}"
        raise InputError(f"{path} is {was}, the model's are {height}x{width} of mode {mode}: {remedy}")
    return pixels.reshape(shape)


def _named(shape: tuple[int, int, int]) -> str:
    return ", ".join(map(str, shape))
