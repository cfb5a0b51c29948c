"""What is known of a data set's images without the data set, for those who only plan."""

from typing import NamedTuple

from marble.data import catalogue, digits
from marble.data.sources import LEVELS
from marble.errors import InputError

Shape = tuple[int, int, int]


class Declared(NamedTuple):
    """A data set's images and classes."""

    image_shape: Shape
    """Height, width, channels."""
    levels: int
    num_classes: int | None
    """None where there are no labels, or where the files would have to be read to know."""


NAMED = {
    catalogue.EMBEDDED: Declared(digits.IMAGE_SHAPE, digits.LEVELS, len(digits.CLASS_NAMES)),
    "mnist": Declared((28, 28, 1), LEVELS, 10),
    "fashion_mnist": Declared((28, 28, 1), LEVELS, 10),
    "cifar10": Declared((32, 32, 3), LEVELS, 10),
}


def declared(name: str, *, image_size: int | None = None, image_shape: Shape | None = None) -> Declared:
    """The images of the data set `name`, resized to `image_size` if that is given; nothing is opened.

    `image_shape` is for data sets that don't say; where they do it has to agree. Of a folder without it the images are
    taken to be coloured. InputError where the shape is not known, or given otherwise than it is.
    """
    catalogue.check_name(name)
    known = NAMED.get(name)
    if known is None and image_size is None and image_shape is None:
        raise InputError(f"the images of {name} are of no known size: give --image_shape HEIGHT,WIDTH,CHANNELS")
    if known is None and image_shape is None and name.startswith(catalogue.TFDS_PREFIX):
        shape = f"{image_size},{image_size}"
        raise InputError(f"{name} may be grey or coloured: give --image_shape {shape},1 or --image_shape {shape},3")
    base = known or Declared(image_shape or (image_size, image_size, 3), LEVELS, None)
    if name == catalogue.EMBEDDED and image_size not in (None, digits.IMAGE_SHAPE[0]):
        raise InputError(f"digits has images of 8x8 with 17 levels, not of {image_size}: leave data.image_size out")
    size = base.image_shape[:2] if image_size is None else (image_size, image_size)
    found = base._replace(image_shape=(*size, base.image_shape[2]))
    if image_shape not in (None, found.image_shape):
        given, spelled = (",".join(map(str, shape)) for shape in (image_shape, found.image_shape))
        raise InputError(
            f"--image_shape {given}, but the images of {name} are {spelled}: leave it out, or set data.image_size"
        )
    return found
