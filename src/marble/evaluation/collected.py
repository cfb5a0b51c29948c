"""One pass over a set of images: its hash, and each network's outputs, which lie on the disk until a metric reads them.

So the memory that a set takes does not grow with its number of images: 50,000 rows of 2048 features are 400 MB of a
temporary file.
"""

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from marble.errors import InputError
from marble.evaluation.image_sets import ImageSet, hasher
from marble.features.stream import rebatched

logger = logging.getLogger(__name__)

SHOWN = 64
"""Images that are kept for the report."""

Apply = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""A network over the devices: images [b h w c] to rows of each layer [b ...]."""


class Spool:
    """Rows that are appended to a file, and read from there."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self._shape: tuple[int, ...] = ()
        self._dtype, self._num = np.dtype(np.float32), 0

    def add(self, rows: np.ndarray) -> None:
        """Appends rows [b ...]."""
        self._shape, self._dtype = rows.shape[1:], rows.dtype
        self._num += len(rows)
        np.ascontiguousarray(rows).tofile(self._file)

    def array(self) -> np.ndarray:
        """All rows [n ...], of which only what is read is in memory."""
        self._file.close()
        return np.memmap(self._path, self._dtype, mode="r", shape=(self._num, *self._shape))


@dataclasses.dataclass(frozen=True)
class Collected:
    """What one pass found."""

    images: ImageSet
    hash: str
    """Of the pixels, in their order: 16 hexadecimal digits of SHA-256."""
    shown: np.ndarray
    """uint8 [n h w c], the first SHOWN."""
    rows: Mapping[str, np.ndarray]
    """[n ...] by "network/layer", and by "pixels" the images themselves, as ``levels_of`` has them."""

    @property
    def described(self) -> dict[str, Any]:
        """What a stamp says of them."""
        found = {"source": self.images.name, "num": self.images.num, "size": "x".join(map(str, self.images.shape))}
        return {**found, "hash": self.hash, **self.images.described}


def collect(
    images: ImageSet,
    networks: Mapping[str, Apply],
    directory: str,
    *,
    keep_pixels: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> Collected:
    """Reads every image once. InputError, naming the set and the image, for features that are not finite."""
    folder = Path(tempfile.mkdtemp(dir=directory))
    spools: dict[str, Spool] = {}
    sha, shown = hasher(images.shape), []
    with tqdm(total=images.num, unit="image", desc=images.name, disable=None if progress else True) as bar:
        done, are_alike, one = 0, True, None
        for batch in rebatched(images.batches(images.at_once or batch_size), batch_size):
            sha.update(np.ascontiguousarray(batch).tobytes())
            one = batch[:1] if one is None else one
            are_alike = are_alike and bool((batch == one).all())
            if done < SHOWN:
                shown.append(as_uint8(batch[: SHOWN - done]))
            if keep_pixels:
                _add(spools, folder, "pixels", levels_of(batch))
            for name, apply in networks.items():
                for layer, rows in apply(batch).items():
                    check_finite(rows, f"{images.name}: the {layer} of {name}", done)
                    _add(spools, folder, f"{name}/{layer}", rows)
            done += len(batch)
            bar.update(len(batch))
    if are_alike and images.num > 1:
        logger.warning("%s: all %d images are the same, so that numbers of them say little", images.name, images.num)
    rows = {name: spool.array() for name, spool in spools.items()}
    return Collected(images, sha.hexdigest()[:16], np.concatenate(shown), rows)


def check_finite(rows: np.ndarray, what: str, first: int) -> None:
    """InputError for a row with NaN or infinity, with the index of its image."""
    bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(1)
    if bad.any():
        raise InputError(
            f"{what} of image {first + int(bad.argmax())} are not finite: look at the image, or the weights"
        )


def levels_of(images: np.ndarray) -> np.ndarray:
    """Images as they are compared pixel by pixel: uint8 as they are, of floats in [-1, 1] their levels 0..255."""
    return images if images.dtype == np.uint8 else np.float32(127.5) * (np.clip(images, -1, 1) + 1)


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images of floats in [-1, 1] rounded; uint8 as they are."""
    return np.round(levels_of(images)).astype(np.uint8)


def _add(spools: dict[str, Spool], folder: Path, name: str, rows: np.ndarray) -> None:
    if name not in spools:
        spools[name] = Spool(folder / f"{len(spools)}.bin")
    spools[name].add(np.asarray(rows))
