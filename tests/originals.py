"""Writes hand-made originals of MNIST and CIFAR-10 as their formats say, independently of the code that reads them."""

import gzip
import struct

import numpy as np

MNIST_STEMS = {"train": "train", "test": "t10k"}
CIFAR10_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def idx_bytes(array):
    """unsigned bytes: magic 0, 0, 8, number of axes; big-endian sizes; the bytes."""
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(splits, folder, zipped=False, dot="-"):
    """The four idx files of {split: (images [n h w], labels [n])}; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in splits.items():
        for kind, array in ((f"images{dot}idx3", images), (f"labels{dot}idx1", labels)):
            content = idx_bytes(array)
            name = f"{MNIST_STEMS[split]}-{kind}-ubyte"
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return folder


def write_cifar10(splits, folder):
    """The six .bin files, equally long, of {split: (images [n 32 32 3], labels [n])}; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [_record(i, y) for split in ("train", "test") for i, y in zip(*splits[split], strict=True)]
    each = len(records) // len(CIFAR10_FILES)
    for k, name in enumerate(CIFAR10_FILES):
        (folder / name).write_bytes(b"".join(records[each * k : each * (k + 1)]))
    return folder


def _record(image, label):
    """A label byte, then the red, green and blue planes, row by row."""
    return bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
