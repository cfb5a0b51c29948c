"""What is known of data sets without them, against the data sets."""

import numpy as np
import originals
import pytest

from marble.data.declared import NAMED, declared
from marble.data.prepare import prepare
from marble.data.sources import open_source
from marble.errors import InputError


@pytest.mark.parametrize("name", NAMED)
def test_it_is_what_the_data_set_says_of_itself(name, tmp_path):
    options = {}
    if name != "digits":
        shape = (10, 32, 32, 3) if name == "cifar10" else (10, 28, 28)
        split = np.zeros(shape, np.uint8), np.zeros(10, np.uint8)
        write = originals.write_cifar10 if name == "cifar10" else originals.write_mnist
        write({"train": split, "test": split}, tmp_path / "source")
        options = dict(source=tmp_path / "source", data_dir=tmp_path / "data")
        prepare(name, **options)
    source = open_source(name, **options)
    assert declared(name) == (source.image_shape, source.levels, source.num_classes)


def test_resized_and_of_unknown_files():
    assert declared("cifar10", image_size=64).image_shape == (64, 64, 3)
    assert declared("mnist", image_size=32, image_shape=(32, 32, 1)).image_shape == (32, 32, 1)
    assert declared("image_folder", image_size=256) == ((256, 256, 3), 256, None)
    assert declared("image_folder", image_size=256, image_shape=(256, 256, 1)).image_shape == (256, 256, 1)
    assert declared("tfds:lsun/bedroom", image_shape=(64, 48, 3)).image_shape == (64, 48, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(name="cifar11"), "unknown data set 'cifar11': did you mean 'cifar10'"),
        (dict(name="image_folder"), "images of image_folder are of no known size: give --image_shape HEIGHT,WIDTH"),
        (dict(name="tfds:x"), "images of tfds:x are of no known size"),
        (dict(name="tfds:x", image_size=64), "give --image_shape 64,64,1 or --image_shape 64,64,3"),
        (dict(name="digits", image_size=16), "not of 16: leave data.image_size out"),
        (dict(name="cifar10", image_shape=(64, 64, 3)), "--image_shape 64,64,3, but the images of cifar10 are 32,32,3"),
        (dict(name="image_folder", image_size=8, image_shape=(9, 9, 3)), "the images of image_folder are 8,8,3"),
    ],
)
def test_what_is_not_known_or_otherwise_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        declared(**options)
