"""Data sets opened by name: what they declare, and random access to the examples of each split."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from marble.data import catalogue, digits
from marble.data.examples import Examples
from marble.data.prepare import num_examples, prepare
from marble.errors import InputError

LEVELS = 256
TRAIN = "train"
"""The split that is trained on."""
HELD_OUT = ("test", "validation")
"""The names of splits that are not trained on; the first that there is is measured on."""
CONTENT = "images "
"""How `Source.originals` begins where it is a digest of the images themselves."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: its name, number of levels (256; 17 for the digits), image shape (h, w, c), classes and splits.

    `num_classes` and `class_names` are None where there are no labels; `splits` has each split's number of examples.
    `originals` names what the copy was made of: a digest or a version, another one for other originals. Where it starts
    with CONTENT it is a digest of the images themselves, and another one is proof of other images.
    """

    name: str
    levels: int
    image_shape: tuple[int, int, int]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    splits: Mapping[str, int]
    originals: str
    load: Callable[[str], Examples] = dataclasses.field(repr=False)

    @property
    def held_out(self) -> str | None:
        """The split that is not trained on; None without one."""
        return next((name for name in HELD_OUT if name in self.splits), None)

    def read(self, split: str) -> Examples:
        """Random access to a split: `len()`, and `[i]` as a dict of image [h w c] uint8, label int32, text str."""
        if split not in self.splits:
            raise InputError(f"{self.name} has no split {split!r}: there are {', '.join(self.splits)}")
        return self.load(split)


def open_source(
    name: str,
    *,
    source: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
) -> Source:
    """The data set `name`: digits, mnist, fashion_mnist, cifar10, image_folder or tfds:NAME[/CONFIG][:VERSION].

    With `source`, the folder of the originals, it is prepared first if it isn't yet; without, it must have been.
    `image_size` makes every image the centred square of its shorter side, resized with antialiasing; None keeps the
    images as they are, which must then all be of one size.
    Raises InputError where the data set is unknown or not prepared (with the command that prepares it), or where its
    images differ in size.
    """
    catalogue.check_name(name)
    if name == catalogue.EMBEDDED:
        prepare(name, source=source)
        return _open_digits(image_size)
    if name.startswith(catalogue.TFDS_PREFIX):
        directory = _tfds_directory(name, source, data_dir)
    elif source is not None:
        directory = prepare(name, source=source, data_dir=data_dir).directory
    else:
        directory = catalogue.find_prepared(name, data_dir=data_dir)
    return _open_prepared(name, directory, image_size)


def with_held_out(source: Source, num: int) -> Source:
    """The data set with num of its training examples, from all over them, as the split ``validation`` instead.

    InputError where it has a held-out split, or no more examples than that.
    """
    if source.held_out is not None:
        raise InputError(
            f"data.held_out={num}, and {source.name} has a split {source.held_out!r}: leave data.held_out out"
        )
    total = source.splits[TRAIN]
    if num >= total:
        raise InputError(
            f"data.held_out={num} of the {total} images of {source.name} leaves none to train on: lower it"
        )
    out = np.arange(num) * total // num
    kept = {TRAIN: np.setdiff1d(np.arange(total), out), HELD_OUT[1]: out}
    others = {name: count for name, count in source.splits.items() if name not in kept}
    splits = {**{name: len(rows) for name, rows in kept.items()}, **others}

    def load(split: str) -> Examples:
        return source.load(TRAIN).subset(kept[split]) if split in kept else source.load(split)

    return dataclasses.replace(source, splits=splits, originals=f"{source.originals} held-out {num}", load=load)


def _open_digits(image_size: int | None) -> Source:
    if image_size not in (None, digits.IMAGE_SHAPE[0]):
        raise InputError(f"digits has images of 8x8 with 17 levels, not of {image_size}: leave image_size out")
    return Source(
        name=catalogue.EMBEDDED,
        levels=digits.LEVELS,
        image_shape=digits.IMAGE_SHAPE,
        num_classes=len(digits.CLASS_NAMES),
        class_names=digits.CLASS_NAMES,
        splits=digits.SPLITS,
        originals=catalogue.EMBEDDED,
        load=digits.read_digits,
    )


def _tfds_directory(name: str, source: str | Path | None, data_dir: str | Path | None) -> Path:
    if source is not None:
        raise InputError(f"{name} is prepared by tensorflow-datasets: give its data_dir, not the source {source}")
    return catalogue.find_tfds(name, data_dir=data_dir)


def _open_prepared(name: str, directory: Path, image_size: int | None) -> Source:
    from marble.data import stored

    builder = stored.open_builder(name, directory)
    shape = stored.image_shape(name, builder, image_size)
    names = stored.class_names(builder)
    return Source(
        name=name,
        levels=LEVELS,
        image_shape=shape,
        num_classes=None if names is None else len(names),
        class_names=names,
        splits=num_examples(directory),
        originals=_originals(name, directory),
        load=lambda split: stored.read_split(builder, split, shape=shape, image_size=image_size),
    )


def _originals(name: str, directory: Path) -> str:
    if name.startswith(catalogue.TFDS_PREFIX):
        return directory.name
    key = directory.parent.name
    of_pixels = name != catalogue.FOLDER and key != catalogue.PUBLISHED_KEY
    return f"{CONTENT}{key}" if of_pixels else key
