"""Latents on a disk: images are encoded once, and runs read what diffuses in their place.

    FOLDER/latents.json      what they are of: the autoencoder, the data, the images' shape, flips
    FOLDER/SPLIT.npy         [n f h w m] float32, the moments of each image's latents; f is 2 with flips: as it is, and
                             mirrored, which of latents would be another image
    FOLDER/SPLIT.json        the labels and texts

What was begun is gone on with. Several processes encode together, and the first writes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from marble.data.examples import ArrayExamples, Examples
from marble.data.preprocess import to_float
from marble.errors import InputError
from marble.features.network import hash_of
from marble.parallel import DeviceMapping, agreement
from marble.storage import is_remote, replace_text
from marble.typing import Array, Batch

FACTS = "latents.json"
BATCH = 64
"""Images that are encoded at once, on all devices; rounded up to a multiple of their number."""
KEPT_EVERY = 16
"""Batches after which what was encoded is on the disk, and would not be encoded again."""


class Origin(NamedTuple):
    """Where examples come from, and where they go."""

    split: str
    originals: str
    """The data's name for its originals."""
    flips: bool
    """Whether images are mirrored half of the time."""
    mapping: DeviceMapping


def cached(folder: str, codec: Any, examples: Examples, origin: Origin) -> ArrayExamples:
    """The examples with ``latent`` [f h w m] in place of images, from the folder, where what is missing is put first.

    codec has ``params``, ``image``, ``moments``, and ``path`` for messages. InputError where the folder holds latents
    of another autoencoder or of other images.
    """
    if is_remote(folder):
        raise InputError(f"autoencoder.cache={folder} is in a bucket, and latents are kept on a disk: give a folder")
    path, facts = Path(folder), _facts(codec, origin)
    agreement.from_first(lambda: _begin(path, facts, codec.path, origin.flips))
    kept = json.loads((path / FACTS).read_text()) if (path / FACTS).is_file() else None
    if kept is None:
        raise InputError(f"autoencoder.cache={folder} is not seen by all processes: give a folder that they share")
    _encode(path, codec, examples, origin, copies=1 + kept["flips"])
    beside = json.loads((path / f"{origin.split}.json").read_text())
    label = None if beside["label"] is None else np.array(beside["label"], np.int32)
    latent = np.load(path / f"{origin.split}.npy", mmap_mode="r")
    return ArrayExamples(None, label, beside["text"], {"latent": latent})


def _facts(codec: Any, origin: Origin) -> dict[str, Any]:
    return {
        "autoencoder": hash_of(codec.params),
        "dtype": str(jnp.dtype(codec.model.dtype)),
        "data": origin.originals,
        "image": list(codec.image.shape),
        "flips": origin.flips,
    }


def _begin(path: Path, facts: Mapping[str, Any], name: str, flips: bool) -> None:
    """Writes what the folder is of, or checks it."""
    if not (path / FACTS).exists():
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"autoencoder.cache={path} can't be made: {error.strerror or error}") from error
        (path / FACTS).write_text(json.dumps({**facts, "path": name}, indent=2) + "\n", encoding="utf-8")
        return
    try:
        kept = json.loads((path / FACTS).read_text())
        was, kept_path = {key: kept[key] for key in facts}, kept["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / FACTS} is damaged: remove the folder, and the latents are made again") from error
    remedy = "give another autoencoder.cache, or remove that folder"
    if was["autoencoder"] != facts["autoencoder"]:
        raise InputError(
            f"{path} has latents of another autoencoder, {was['autoencoder']} of {kept_path}, and this run's is "
            f"{facts['autoencoder']} of {name}: {remedy}"
        )
    if was["dtype"] != facts["dtype"]:
        raise InputError(
            f"{path} has latents that were computed in {was['dtype']}, and autoencoder.dtype={facts['dtype']}: {remedy}"
        )
    if (was["data"], was["image"]) != (facts["data"], facts["image"]):
        raise InputError(
            f"{path} has latents of other images, {was['data']} of the shape {was['image']}, and this run's are "
            f"{facts['data']} of {facts['image']}: {remedy}"
        )
    if flips and not was["flips"]:
        raise InputError(f"{path} has no latents of mirrored images, and data.flip is set: {remedy}")


def _encode(path: Path, codec: Any, examples: Examples, origin: Origin, *, copies: int) -> None:
    """Puts a split's latents into the folder, unless they are there; each example is read once."""
    if agreement.from_first((path / f"{origin.split}.npy").exists):
        return
    kept = _Kept(path, origin.split, (len(examples), copies, *codec.moments_shape))
    start = agreement.from_first(kept.open)
    size = -(-BATCH // len(origin.mapping.devices)) * len(origin.mapping.devices)
    program = _program(codec, origin.mapping, copies)
    starts = range(start, len(examples), size)
    for first in tqdm(starts, f"encoding {origin.split}", disable=None if agreement.is_first() else True):
        rows = [examples[i] for i in range(first, min(first + size, len(examples)))]
        images = np.stack([row["image"] for row in rows])
        filled = np.concatenate([images, np.repeat(images[:1], size - len(images), axis=0)])
        found = program(filled)[: len(rows)]
        if agreement.is_first():
            kept.add(first, found, rows)
    agreement.from_first(kept.close)


class _Kept:
    """The files of a split that is being encoded, of the process that writes."""

    def __init__(self, path: Path, split: str, shape: tuple[int, ...]) -> None:
        self._path, self._split, self._shape = path, split, shape
        self._count, self._latents, self._beside = (path / f".{split}.{end}" for end in ("count", "npy", "jsonl"))
        self._batches = 0

    def open(self) -> int:
        """Goes on with what is there; how many examples that is."""
        files = (self._count, self._latents, self._beside)
        start = int(self._count.read_text()) if all(file.exists() for file in files) else 0
        self._made = open_memmap(self._latents, "r+" if start else "w+", np.float32, self._shape)
        # Cut where the count is, not written anew: this process may end before it has counted any more.
        self._lines = self._beside.open("rb+" if start else "wb")
        for _ in range(start):
            self._lines.readline()
        self._lines.truncate()
        return start

    def add(self, first: int, latents: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
        """The latents of these examples, the first of which has that number, with their labels and texts."""
        self._made[first : first + len(rows)] = latents
        told = ([None if row.get("label") is None else int(row["label"]), row.get("text")] for row in rows)
        self._lines.writelines(f"{json.dumps(one)}\n".encode() for one in told)
        self._batches += 1
        if self._batches % KEPT_EVERY == 0:
            self._made.flush()
            self._lines.flush()
            replace_text(self._count, str(first + len(rows)))

    def close(self) -> None:
        """Gives the whole its name."""
        self._made.flush()
        self._lines.close()
        labels, texts = zip(*map(json.loads, self._beside.read_text(encoding="utf-8").splitlines()), strict=True)
        beside = {"label": None if None in labels else labels, "text": None if None in texts else texts}
        (self._path / f"{self._split}.json").write_text(json.dumps(beside) + "\n", encoding="utf-8")
        self._latents.rename(self._path / f"{self._split}.npy")
        for file in (self._count, self._beside):
            file.unlink(missing_ok=True)


def _program(codec: Any, mapping: DeviceMapping, copies: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function of a batch of images on the host to their moments [b copies h w m]."""

    def moments(codec: Any, batch: Batch) -> Array:
        images = to_float(batch["image"], codec.image.levels)
        ways = [images, images[:, :, ::-1]][:copies]
        return jnp.stack([codec.moments(way) for way in ways], axis=1)

    compiled, placed = mapping.compile_rows(moments), mapping.place(codec)
    return lambda images: compiled(placed, mapping.put({"image": images}))
