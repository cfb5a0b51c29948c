"""Features of any number of images: batches of one size through one compiled program, over all devices."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from marble.errors import InputError
from marble.features.network import FeatureNetwork
from marble.parallel import DeviceMapping
from marble.typing import Array, Batch


@dataclasses.dataclass(frozen=True, eq=False)
class Featurizer:
    """A network compiled over the devices of a mapping, with its parameters there: keep one, and it compiles once.

    Each shape and type of images has its own program. InputError for a layer that the network does not have.
    """

    network: FeatureNetwork
    mapping: DeviceMapping
    layers: Sequence[str] | None = None
    """Those that are given back; None is all."""
    batch_size: int = 64
    """Images of a call, rounded up to a multiple of the devices."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size} must be at least 1")
        missing = [layer for layer in self.layers or () if layer not in self.network.layers]
        if missing:
            has = ", ".join(self.network.layers)
            raise InputError(f"{self.network.name} has no layer {missing[0]!r}: it has {has}")

    @property
    def size(self) -> int:
        """Images of a call."""
        count = len(self.mapping.devices)
        return -(-self.batch_size // count) * count

    @functools.cached_property
    def _params(self) -> Any:
        return self.mapping.place(self.network.params)

    @functools.cached_property
    def _program(self) -> Callable[..., dict[str, np.ndarray]]:
        return self.mapping.compile_rows(self._rows)

    def _rows(self, params: Any, batch: Batch) -> dict[str, Array]:
        found = self.network.apply(params, self.network.prepare(batch["image"]))
        return {layer: found[layer] for layer in self.layers or self.network.layers}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The layers [b ...] float32 of images [b h w c], uint8 or floats in [-1, 1], c 1 or 3; b at least 1.

        Every process gives all images, and gets all rows. What the last call lacks is filled up with the last image,
        whose rows are dropped. InputError for other images.
        """
        images = checked(images)
        calls = [self._call(images[start : start + self.size]) for start in range(0, len(images), self.size)]
        return {layer: np.concatenate([call[layer] for call in calls]) for layer in calls[0]}

    def _call(self, images: np.ndarray) -> dict[str, np.ndarray]:
        num = len(images)
        filled = np.concatenate([images, np.repeat(images[-1:], self.size - num, axis=0)])
        found = self._program(self._params, self.mapping.put({"image": filled}))
        return {layer: rows[:num] for layer, rows in found.items()}


def featurize(
    network: FeatureNetwork,
    batches: Iterable[np.ndarray],
    *,
    mapping: DeviceMapping,
    batch_size: int = 64,
    layers: Sequence[str] | None = ("features",),
    progress: Callable[[int], Any] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The layers of a stream of images, in its order: {layer: rows [b ...]}, b up to batch_size.

    The batches [b h w c] may be of any sizes, and their images of one shape and type; see ``Featurizer``. progress is
    told the number of images of each call. InputError for images that are not alike, or not images.
    """
    featurizer = Featurizer(network, mapping, layers, batch_size)
    for images in rebatched(batches, featurizer.size):
        yield featurizer(images)
        if progress is not None:
            progress(len(images))


def rebatched(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same images in batches of one size, the last of which may be smaller. InputError for images not alike."""
    held: list[np.ndarray] = []
    for images in batches:
        images = checked(images)
        if held and (images.shape[1:], images.dtype) != (held[0].shape[1:], held[0].dtype):
            kinds = " after ".join(f"{a.dtype}{list(a.shape[1:])}" for a in (images, held[0]))
            raise InputError(f"images of {kinds}: give images of one shape and type")
        held.append(images)
        if sum(map(len, held)) >= size:
            joined = np.concatenate(held)
            whole = len(joined) // size * size
            yield from np.split(joined[:whole], whole // size)
            held = [joined[whole:]]  # of no image, it still says the shape
    if held and len(rest := np.concatenate(held)):
        yield rest


def checked(images: np.ndarray) -> np.ndarray:
    """Images [b h w c], c 1 or 3, uint8 or floats in [-1, 1], the latter as float32. InputError for others."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"images of shape {list(images.shape)}: give [n h w c], c 1 or 3, n at least 1")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating) or not np.abs(images).max() <= 1:
        raise InputError(
            f"images of {images.dtype} from {images.min()} to {images.max()}: give uint8, or floats in [-1, 1]"
        )
    return images.astype(np.float32)
