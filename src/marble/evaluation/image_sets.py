"""Sets of images to judge, and to judge by: a folder, an npz, a data set, arrays, samples drawn when asked for.

All are read in batches, so that a set need not fit in memory; all are uint8, or float32 in [-1, 1] where samples are
judged before they are rounded.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marble.data import catalogue
from marble.data.folder import list_folder
from marble.data.images import decode, header_shape
from marble.data.sources import Source, open_source
from marble.errors import InputError
from marble.metrics.rows import spread
from marble.pipelines.image_files import NPZ_ERRORS, stretched

logger = logging.getLogger(__name__)

Rows = Callable[[np.ndarray], np.ndarray]
"""The images [n h w c] of these indices [n], which are ascending."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images in an order, of one shape."""

    name: str
    num: int
    shape: tuple[int, int, int]
    rows: Rows = dataclasses.field(repr=False)
    texts: Sequence[str] | None = dataclasses.field(default=None, repr=False)
    """What each image is said to show."""
    described: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the stamp says of them beside their name, number, size and hash."""
    at_once: int | None = None
    """How many are best asked for: those of one call of a sampler, which fills up fewer."""

    def take(self, num: int | None) -> "ImageSet":
        """num of them, spread over all, for sets are often sorted by class. InputError for more than there are."""
        if num is None or num == self.num:
            return self
        if not 1 <= num <= self.num:
            raise InputError(f"{num} images asked for, and {self.name} has {self.num}: give from 1 to {self.num}")
        chosen = spread(num, self.num)
        texts = None if self.texts is None else [self.texts[i] for i in chosen]
        return dataclasses.replace(self, num=num, rows=lambda i: self.rows(chosen[i]), texts=texts)

    def stating(self, **more: Any) -> "ImageSet":
        """The same, of which the stamp says more."""
        return dataclasses.replace(self, described={**self.described, **more})

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All of them, [b h w c], b up to size."""
        for start in range(0, self.num, size):
            yield self.rows(np.arange(start, min(start + size, self.num)))


def hasher(shape: Sequence[int]) -> Any:
    """What is fed the bytes of all images in their order: the same for the same pixels in any kind of file."""
    return hashlib.sha256(repr(tuple(shape)).encode())


def open_images(where: str, *, image_size: int | None = None, data_dir: str | None = None) -> ImageSet:
    """The images of DIR or DIR:SPLIT, FILE.npz, or NAME or NAME:SPLIT of a data set (default: its train split).

    image_size makes each the centred square of its shorter side, resized by Lanczos with antialiasing; without it they
    must be of one size. InputError, naming what is wrong.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"--image_size {image_size} must be at least 1")
    path, split = Path(where), None
    if not path.exists() and ":" in where and Path(where.rpartition(":")[0]).is_dir():
        path, split = Path(where.rpartition(":")[0]), where.rpartition(":")[2]
    if path.is_dir():
        return of_folder(path, split=split, image_size=image_size)
    if path.suffix.lower() == ".npz":
        found = of_npz(path)
        if image_size is not None and found.shape[:2] != (image_size, image_size):
            size = "x".join(map(str, found.shape[:2]))
            raise InputError(f"{where} is an npz of {size}, which is not resized: leave --image_size out")
        return found
    if path.exists():
        raise InputError(f"{where} is a file, and no npz: give a folder of images, an npz, or the name of a data set")
    name, split = dataset_and_split(where)
    return of_source(open_source(name, data_dir=data_dir, image_size=image_size), split)


def dataset_and_split(where: str) -> tuple[str, str | None]:
    """NAME[:SPLIT]; that of tensorflow-datasets has a colon of its own, tfds:NAME[:SPLIT]."""
    prefix, rest = (catalogue.TFDS_PREFIX, where.removeprefix(catalogue.TFDS_PREFIX))
    head, _, split = rest.partition(":")
    return (prefix if where.startswith(prefix) else "") + head, split or None


def of_arrays(images: np.ndarray, *, name: str = "arrays", texts: Sequence[str] | None = None) -> ImageSet:
    """uint8 [n h w c]. InputError for others."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise InputError(f"{name} has images of shape {list(images.shape)}: give [n h w c], c 1 or 3, n at least 1")
    if images.dtype != np.uint8:
        raise InputError(f"{name} has pixels of {images.dtype}: give 8 bits, uint8 from 0 to 255")
    return ImageSet(name, len(images), images.shape[1:], lambda indices: images[indices], texts)


def of_npz(path: Path) -> ImageSet:
    """``arr_0`` of a file, as ADM's evaluator and ``marble sample`` write it."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = arrays.get("arr_0")
            names = ", ".join(arrays.files)
    except NPZ_ERRORS as error:
        raise InputError(f"{path} can't be read as an npz ({error}): write it again") from error
    if held is None:
        raise InputError(f"{path} has no images (arr_0) but {names}")
    return of_arrays(held, name=str(path))


def of_folder(path: Path, *, split: str | None = None, image_size: int | None = None) -> ImageSet:
    """The images of a folder in the Hugging Face layout (see ``marble.data.folder``), with their texts."""
    folder = list_folder(path)
    split = split or "train"
    if split not in folder.splits:
        raise InputError(f"{path} has no split {split!r}: there are {', '.join(folder.splits)}")
    entries = folder.splits[split]
    for reason, names in folder.unused.items():
        logger.warning("%s: %d files %s are not taken, the first is %s", path, len(names), reason, names[0])
    shapes = {entry.name: header_shape(entry.path, str(entry.path)) for entry in entries}
    channels = max(shape[-1] for shape in shapes.values())  # grey images among coloured ones are coloured
    first_name, first = next(iter(shapes.items()))
    other = next((name for name, shape in shapes.items() if shape[:2] != first[:2]), None)
    if other is not None and image_size is None:
        sizes = " and ".join(f"{name} of {shapes[name][0]}x{shapes[name][1]}" for name in (first_name, other))
        raise InputError(f"{path} has {sizes}: give --image_size, to which all are cut and resized")

    def one(i: int) -> np.ndarray:
        path = entries[i].path
        return decode(path.read_bytes(), str(path), channels=channels, image_size=image_size)

    texts = None if entries[0].text is None else [entry.text for entry in entries]
    size = first[:2] if image_size is None else (image_size, image_size)
    name = str(path) if len(folder.splits) == 1 else f"{path}:{split}"
    described = {} if image_size is None else {"image_size": image_size}
    rows = lambda indices: np.stack([one(i) for i in indices])  # noqa: E731
    return ImageSet(name, len(entries), (*size, channels), rows, texts, described)


def of_source(source: Source, split: str | None = None) -> ImageSet:
    """A split of a data set, by default train, its levels stretched to 0..255."""
    split = split or next(iter(source.splits))
    examples = source.read(split)

    def rows(indices: np.ndarray) -> np.ndarray:
        return stretched(np.stack([examples[int(i)]["image"] for i in indices]), source.levels)

    texts = None
    if "text" in examples[0]:
        texts = _Texts(examples)
    shape = tuple(source.image_shape)
    return ImageSet(f"{source.name}:{split}", len(examples), shape, rows, texts, {"originals": source.originals})


class _Texts(Sequence[str]):
    """The texts of examples, read when they are asked for."""

    def __init__(self, examples: Any) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: Any) -> Any:
        return self._examples[int(i)]["text"]
