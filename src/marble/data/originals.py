"""The original files of MNIST, Fashion-MNIST and CIFAR-10, read whole into arrays and checked.

idx (MNIST, Fashion-MNIST): two zero bytes, 0x08 for unsigned bytes, the number of axes, each axis as a big-endian
32-bit number, then the bytes. CIFAR-10's binary version: records of one label byte and 3,072 pixel bytes, the red
plane, the green plane, the blue plane, each 32 rows of 32.
"""

import gzip
import math
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from marble.errors import InputError

NUM_CLASSES = 10
IDX_KINDS = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}
CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10_TEST = "test_batch.bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_RECORD = 1 + 3 * 32 * 32


class Pixels(NamedTuple):
    """A split: images [n h w c] uint8 and labels [n] uint8 in 0..9."""

    image: np.ndarray
    label: np.ndarray


def read_mnist(folder: Path) -> dict[str, Pixels]:
    """The splits `train` and `test` of four idx files in `folder`, as published, gzipped or not.

    Raises InputError, naming the file, when one is missing, cut short, not idx, of another size than the others, or
    holds a label above 9.
    """
    splits = {"train": _idx_split(folder, "train"), "test": _idx_split(folder, "t10k")}
    train, test = (pixels.image.shape[1:3] for pixels in splits.values())
    if train != test:
        raise InputError(
            f"{folder}: images to train are {train} and to test {test}: give the originals of one data set"
        )
    return splits


def read_cifar10(source: Path) -> dict[str, Pixels]:
    """The splits `train` and `test` of CIFAR-10's binary version.

    `source` is the folder of the .bin files, the folder above it, the published archive, or the archive's folder.
    Raises InputError, naming the file, when one is missing, cut short, or holds a label above 9.
    """
    files = _cifar10_files(source)
    records = {name: _cifar10_records(f"{source}: {name}", content) for name, content in files.items()}
    most = max(len(r) for r in records.values())
    for name, rows in records.items():
        if len(rows) < most:
            raise InputError(
                f"{source}: {name} is cut short: it has {len(rows)} images where other batches have {most}; "
                "fetch it again"
            )
    train = np.concatenate([records[name] for name in CIFAR10_TRAIN])
    return {"train": _cifar10_pixels(train), "test": _cifar10_pixels(records[CIFAR10_TEST])}


def packed_files(name: str, source: Path) -> dict[str, Path]:
    """Those files of the originals of `name` in `source` that are read packed, by the names they were published by."""
    if name == "cifar10":
        folders, archive = _cifar10_places(source)
        return {} if folders else {CIFAR10_ARCHIVE: archive}
    found = [_find_idx(source, prefix, part) for prefix in ("train", "t10k") for part in IDX_KINDS]
    return {path.name.replace(".idx", "-idx"): path for path in found if path.suffix == ".gz"}


def read_idx(path: Path, *, ndim: int) -> np.ndarray:
    """The array of unsigned bytes with `ndim` axes in an idx file, gzipped where the name ends in .gz."""
    content = _gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    magic = bytes([0, 0, 8, ndim])
    if not content:
        raise InputError(f"{path} is empty; fetch it again")
    if content[:4] != magic:
        raise InputError(
            f"{path} starts with 0x{content[:4].hex()} where an idx file of {ndim} axes of bytes starts with "
            f"0x{magic.hex()}: it is another file or damaged; fetch it again"
        )
    header = 4 + 4 * ndim
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(ndim)]
    if len(content) != header + math.prod(shape):
        raise InputError(
            f"{path} has {len(content)} bytes where its header asks for {header + math.prod(shape)}: it was cut short "
            "or damaged; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _idx_split(folder: Path, prefix: str) -> Pixels:
    image_path, label_path = (_find_idx(folder, prefix, part) for part in IDX_KINDS)
    image, label = read_idx(image_path, ndim=3), read_idx(label_path, ndim=1)
    if len(image) != len(label) or not len(image):
        raise InputError(
            f"{image_path} has {len(image)} images and {label_path} has {len(label)} labels: they must be as many, "
            "and more than none; fetch both again"
        )
    _check_labels(str(label_path), label)
    return Pixels(image[..., None], label)


def _find_idx(folder: Path, prefix: str, part: str) -> Path:
    names = [f"{prefix}-{part}{dot}{IDX_KINDS[part]}{gz}" for gz in ("", ".gz") for dot in ("-", ".")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has no {names[0]} (nor {', '.join(names[1:])}): give the folder of the originals")
    return found[0]


def _gunzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); fetch it again") from error


def _check_labels(name: str, label: np.ndarray) -> None:
    wrong = np.flatnonzero(label >= NUM_CLASSES)
    if len(wrong):
        raise InputError(
            f"{name}: the label of image {wrong[0]} is {label[wrong[0]]}, not in 0..{NUM_CLASSES - 1}; fetch it again"
        )


def _cifar10_files(source: Path) -> Mapping[str, bytes]:
    names = (*CIFAR10_TRAIN, CIFAR10_TEST)
    folders, archive = _cifar10_places(source)
    if folders:
        missing = [name for name in names if not (folders[0] / name).is_file()]
        files = {name: (folders[0] / name).read_bytes() for name in names if name not in missing}
    elif archive.is_file():
        files = _unpack(archive, names)
        missing = [name for name in names if name not in files]
    else:
        raise InputError(f"{source} has neither {names[0]} nor {CIFAR10_ARCHIVE}: give the folder of the originals")
    if missing:
        raise InputError(f"{source} has no {', '.join(missing)}: fetch the binary version of CIFAR-10 again")
    return files


def _cifar10_places(source: Path) -> tuple[list[Path], Path]:
    """The folders that hold unpacked batches, and where the archive is if there are none."""
    names = (*CIFAR10_TRAIN, CIFAR10_TEST)
    folders = [f for f in (source, source / "cifar-10-batches-bin") if any((f / name).is_file() for name in names)]
    return folders, (source if source.is_file() else source / CIFAR10_ARCHIVE)


def _unpack(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    try:
        with tarfile.open(archive) as tar:
            members = {Path(m.name).name: m for m in tar.getmembers() if m.isfile()}
            return {name: tar.extractfile(members[name]).read() for name in names if name in members}
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{archive} is cut short or damaged ({error}); fetch it again") from error


def _cifar10_records(name: str, content: bytes) -> np.ndarray:
    if not content or len(content) % CIFAR10_RECORD:
        raise InputError(
            f"{name} has {len(content)} bytes, not a multiple of {CIFAR10_RECORD}: it was cut short or damaged; "
            "fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
    _check_labels(name, records[:, 0])
    return records


def _cifar10_pixels(records: np.ndarray) -> Pixels:
    planes = records[:, 1:].reshape(-1, 3, 32, 32)  # [n c h w]
    return Pixels(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0])
