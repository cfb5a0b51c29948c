"""Reads what tensorflow-datasets prepared, here or elsewhere, without TensorFlow.

Splits under 2 GB of pixels are decoded once into memory; larger ones are decoded when their examples are asked for.
Import this module where it is used: it imports tensorflow-datasets.
"""

import io
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from marble.data import images
from marble.data.examples import ArrayExamples, Examples, StoredExamples
from marble.errors import InputError

Builder = tfds.core.DatasetBuilder
Shape = tuple[int, int, int]

IN_MEMORY_BYTES = 2 * 10**9
CHUNK_EXAMPLES = 1024


def open_builder(name: str, directory: Path) -> Builder:
    """The data set in `directory`. Raises InputError where it has no random access or no `image` of bytes."""
    try:
        builder = tfds.builder_from_directory(directory, file_format="array_record")
    except ValueError as error:
        raise InputError(
            f"{name} in {directory} can't be read by index ({error}): prepare it with file_format='array_record'"
        ) from error
    features = builder.info.features
    if not (isinstance(features, tfds.features.FeaturesDict) and "image" in features):
        raise InputError(f"{name} in {directory} has no feature 'image': give a data set of images")
    image = features["image"]
    if image.np_dtype != np.uint8 or len(image.shape) != 3 or image.shape[-1] not in images.MODES:
        raise InputError(
            f"{name} in {directory} has an image of shape {image.shape} and type {np.dtype(image.np_dtype).name}: "
            "give one of height, width and 1 or 3 channels of uint8"
        )
    return builder


def class_names(builder: Builder) -> tuple[str, ...] | None:
    """The names of the classes; None where the data set has no `label` of classes."""
    features = dict(builder.info.features)
    label = features.get("label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None


def image_shape(name: str, builder: Builder, image_size: int | None) -> Shape:
    """(h, w, c) of the images as they will be read. Raises InputError where they differ and nothing resizes them."""
    height, width, channels = builder.info.features["image"].shape
    if image_size is not None:
        return image_size, image_size, channels
    if height is not None and width is not None:
        return height, width, channels
    return (*_common_size(name, builder), channels)


def read_split(builder: Builder, split: str, *, shape: Shape, image_size: int | None) -> Examples:
    """The examples of a split, their images [h w c] of this shape."""
    decode = partial(
        _example, split, channels=shape[-1], image_size=image_size, labelled=class_names(builder) is not None
    )
    examples = StoredExamples(_records(builder, split), decode)
    if len(examples) * math.prod(shape) > IN_MEMORY_BYTES:
        return examples
    return _in_memory(examples, shape, split)


def _records(builder: Builder, split: str) -> Any:
    """The records by index, their images left encoded."""
    encoded = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    return builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding() for key in encoded})


def _example(
    split: str, i: int, record: Mapping[str, Any], *, channels: int, image_size: int | None, labelled: bool
) -> dict[str, Any]:
    image = record["image"]
    if isinstance(image, bytes):
        image = images.decode(image, _name(split, i, record), channels=channels, image_size=image_size)
    elif image_size is not None:
        image = images.resize(image, image_size)
    label = {"label": np.int32(record["label"])} if labelled else {}
    text = {"text": record["text"].decode()} if isinstance(record.get("text"), bytes) else {}
    return {"image": image, **label, **text}


def _in_memory(examples: StoredExamples, shape: Shape, split: str) -> ArrayExamples:
    count = len(examples)
    image, label, text = np.empty((count, *shape), np.uint8), np.empty(count, np.int32), []
    for i, example in enumerate(tqdm(_all(examples), f"reading {split}", count, unit="image", disable=None)):
        image[i] = example["image"]
        label[i] = example.get("label", 0)
        text.extend([example["text"]] if "text" in example else [])
    return ArrayExamples(image, label if "label" in example else None, text or None)


def _all(examples: StoredExamples) -> Iterator[dict[str, Any]]:
    """Every example in order: records fetched by chunks, encoded images decoded by threads."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(examples), CHUNK_EXAMPLES):
            chunk = range(start, min(start + CHUNK_EXAMPLES, len(examples)))
            records = examples.records.__getitems__(list(chunk))
            # Raw pixels need no decoding: threads would only contend for the interpreter.
            each = pool.map if isinstance(records[0]["image"], bytes) else map
            yield from each(examples.decode, chunk, records)


def _common_size(name: str, builder: Builder) -> tuple[int, int]:
    sizes = _sizes(builder)
    first_name, first = next(sizes)
    for other_name, other in sizes:
        if other != first:
            raise InputError(
                f"{name} has images of several sizes: {first_name} is {_spell(first)} and {other_name} is "
                f"{_spell(other)}; give an image_size to resize to, or make them equal"
            )
    return first


def _sizes(builder: Builder) -> Iterator[tuple[str, tuple[int, int]]]:
    for split in builder.info.splits:
        for i, record in enumerate(_records(builder, split)):
            name, image = _name(split, i, record), record["image"]
            yield name, (images.header_shape(io.BytesIO(image), name) if isinstance(image, bytes) else image.shape)[:2]


def _spell(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} (width x height)"


def _name(split: str, i: int, record: Mapping[str, Any]) -> str:
    return record["file_name"].decode() if "file_name" in record else f"image {i} of {split}"
