"""The tensorflow-datasets builders of our own data sets. They need no TensorFlow.

What is stored is what was published: MNIST's and CIFAR-10's raw pixels as tensors of bytes, a folder's images in
their own encoding; both in their original order. The records can be read by any user of tensorflow-datasets,
`tfds.builder_from_directory(...).as_data_source()`. Import this module where it is used: it imports
tensorflow-datasets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from marble.data import images
from marble.data.catalogue import STORED_VERSION
from marble.data.folder import Folder
from marble.data.metadata import Entry
from marble.data.originals import NUM_CLASSES, Pixels
from marble.errors import InputError

MOST_FAULTS = 20
"""Unreadable images that an error names; it counts the others."""

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class _Pixels(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Raw pixels and labels in memory, by split."""

    VERSION = tfds.core.Version(STORED_VERSION)
    CLASSES: tuple[str, ...]

    def __init__(self, splits: Mapping[str, Pixels], *, origin: str, data_dir: Path):
        self._splits, self._origin = splits, origin
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = self._splits["train"].image.shape[1:]
        bytes_as_they_are = tfds.features.Encoding.BYTES
        features = {
            "image": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=bytes_as_they_are),
            "label": tfds.features.ClassLabel(names=self.CLASSES),
        }
        return _in_order(self, features, self._origin)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        image, label = self._splits[split]
        for i in tqdm(range(len(image)), desc=f"preparing {split}", unit="image", disable=None):
            yield i, {"image": image[i], "label": int(label[i])}


class MarbleMnist(_Pixels, skip_registration=True):
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 grey 28x28 images of handwritten digits."""

    CLASSES = tuple(str(digit) for digit in range(NUM_CLASSES))


class MarbleFashionMnist(_Pixels, skip_registration=True):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 grey 28x28 images of clothes."""

    CLASSES = FASHION_MNIST_CLASSES


class MarbleCifar10(_Pixels, skip_registration=True):
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour 32x32 images of ten classes."""

    CLASSES = CIFAR10_CLASSES


class MarbleImageFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A user's folder of images; every pixel is decoded once here, so that no damaged image gets further."""

    VERSION = tfds.core.Version(STORED_VERSION)

    def __init__(self, folder: Folder, *, origin: str, data_dir: Path):
        self._folder, self._origin, self._shape = folder, origin, _common_shape(folder)
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=self._shape), "file_name": tfds.features.Text()}
        if self._folder.entries[0].text is not None:
            features["text"] = tfds.features.Text()
        if self._folder.class_names is not None:
            features["label"] = tfds.features.ClassLabel(names=self._folder.class_names)
        return _in_order(self, features, self._origin)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._folder.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        entries = self._folder.splits[split]
        for i, entry in enumerate(tqdm(entries, desc=f"preparing {split}", unit="image", disable=None)):
            try:
                yield i, _stored_example(entry)
            except InputError:
                each_of(_stored_example, self._folder.entries, "looking for others")  # which raises for all of them
                raise


PIXELS = {"mnist": MarbleMnist, "fashion_mnist": MarbleFashionMnist, "cifar10": MarbleCifar10}


def _common_shape(folder: Folder) -> tuple[int | None, int | None, int]:
    """[h w c] of all images: None for a side that differs, one channel only where every image is grey."""
    try:
        shapes = each_of(lambda e: images.header_shape(e.path, str(e.path)), folder.entries, "looking at sizes")
    except InputError:
        each_of(_stored_example, folder.entries, "looking for others")  # whose headers are whole
        raise
    heights, widths, channels = zip(*set(shapes), strict=True)

    def common(sides):
        return sides[0] if len(set(sides)) == 1 else None

    return common(heights), common(widths), max(channels)


def each_of(look: Callable[[Entry], Any], entries: Sequence[Entry], doing: str) -> list[Any]:
    """look(entry) of all; one InputError for all that can't be read."""
    results, faults = [], []
    for entry in tqdm(entries, desc=doing, unit="image", disable=None):
        try:
            results.append(look(entry))
        except InputError as error:
            faults.append(str(error))
    if len(faults) > 1:
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        listed = "; ".join([*faults[:MOST_FAULTS], *more])
        raise InputError(f"{len(faults)} images can't be read: {listed}")
    if faults:
        raise InputError(faults[0])
    return results


def _stored_example(entry: Entry) -> dict[str, Any]:
    content = images.storable(entry.path.read_bytes(), str(entry.path))
    optional = {"label": entry.label, "text": entry.text}
    given = {key: value for key, value in optional.items() if value is not None}
    return {"image": content, "file_name": entry.name, **given}


def _in_order(builder: tfds.core.DatasetBuilder, features: Mapping[str, Any], origin: str) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict({"origin": origin}),
    )
