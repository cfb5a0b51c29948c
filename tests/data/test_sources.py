import subprocess
import sys

import numpy as np
import pytest

from marble.data.sources import open_source
from marble.errors import InputError

RNG = np.random.default_rng(13)


def test_the_digits():
    source = open_source("digits")
    assert (source.name, source.levels, source.image_shape, source.num_classes) == ("digits", 17, (8, 8, 1), 10)
    assert source.splits == {"train": 1437, "test": 360}
    for split, count in source.splits.items():
        assert len(source.read(split)) == count
    example = source.read("test")[7]
    assert example["image"].shape == (8, 8, 1) and 0 <= example["label"] < 10


def test_a_source_is_prepared_when_it_is_given(tmp_path, write_cifar10, tiny_cifar10):
    source = open_source("cifar10", source=write_cifar10(tmp_path / "bin"), data_dir=tmp_path / "data")
    assert (source.levels, source.image_shape, source.num_classes) == (256, (32, 32, 3), 10)
    assert source.class_names[3] == "cat"
    for split, (images, labels) in tiny_cifar10.items():
        examples = source.read(split)
        np.testing.assert_array_equal(examples.image, images)
        np.testing.assert_array_equal(examples.label, labels)
        assert examples.label.dtype == np.int32


def test_an_unknown_split_is_told_all(tmp_path):
    with pytest.raises(InputError, match="digits has no split 'validation': there are train, test"):
        open_source("digits").read("validation")


def test_an_unprepared_data_set_names_the_command(tmp_path):
    with pytest.raises(InputError, match=f"run `marble data prepare fashion_mnist --data_dir {tmp_path}`"):
        open_source("fashion_mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("digit", {}, "unknown data set 'digit': did you mean 'digits'"),
        ("digits", {"image_size": 16}, "digits has images of 8x8 with 17 levels, not of 16"),
        ("digits", {"source": "x"}, "has no originals"),
        ("tfds:mnist", {"source": "x"}, "give its data_dir, not the source x"),
    ],
)
def test_wrong_input_is_named(name, options, message):
    with pytest.raises(InputError, match=message):
        open_source(name, **options)


def test_pixels_are_resized(tmp_path, write_mnist):
    source = open_source("mnist", source=write_mnist(tmp_path / "idx"), data_dir=tmp_path / "data", image_size=4)
    assert source.image_shape == (4, 4, 1)
    assert source.read("test").image.shape == (4, 4, 4, 1)


def test_a_folder_of_several_sizes_is_resized(tmp_path, write_folder):
    images = [np.full((8, 12, 3), 40, np.uint8), np.full((9, 9, 3), 250, np.uint8)]
    rows = [{"file_name": f"{i}.png", "text": t, "label": t} for i, t in enumerate(("low", "high"))]
    folder = write_folder(tmp_path / "folder", images, rows)
    with pytest.raises(InputError, match=r"0\.png is 12x8 \(width x height\) and 1\.png is 9x9"):
        open_source("image_folder", source=folder, data_dir=tmp_path / "data")
    source = open_source("image_folder", source=folder, data_dir=tmp_path / "data", image_size=4)
    assert (source.image_shape, source.class_names) == ((4, 4, 3), ("high", "low"))
    examples = source.read("train")
    np.testing.assert_array_equal(examples.image, np.stack([np.full((4, 4, 3), value) for value in (40, 250)]))
    assert [(e["label"], e["text"]) for e in examples] == [(1, "low"), (0, "high")]


def test_a_plain_folder_has_no_classes(tmp_path, write_folder):
    images = RNG.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    source = open_source("image_folder", source=write_folder(tmp_path / "f", images), data_dir=tmp_path / "data")
    assert source.num_classes is None and source.class_names is None
    assert set(source.read("train")[0]) == {"image"}


@pytest.mark.parametrize("shape", [(6, 5, 1), (6, 5, 3)])
def test_a_stock_data_set_prepared_elsewhere(tmp_path, write_tfds, shape):
    """By its own name, mnist, which ours doesn't shadow; in the order in which it was stored."""
    images, labels = RNG.integers(0, 256, (30, *shape), dtype=np.uint8), RNG.integers(0, 3, 30)
    labels[:3] = 0, 1, 2
    write_tfds(tmp_path, "mnist", images, labels, version="3.0.1")
    source = open_source("tfds:mnist:3.0.1", data_dir=tmp_path)
    assert (source.levels, source.image_shape, source.class_names) == (256, shape, ("a", "b", "c"))
    examples = source.read("train")

    def table(image, label):
        return sorted(map(tuple, np.column_stack([image.reshape(30, -1), label]).tolist()))

    assert table(examples.image, examples.label) == table(images, labels)
    with pytest.raises(InputError, match="marble data prepare mnist"):
        open_source("mnist", data_dir=tmp_path)


def test_a_configuration_prepared_elsewhere(tmp_path, write_tfds):
    images = RNG.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    write_tfds(tmp_path, "sized", images, [0, 1, 0, 1], config="5x5")
    source = open_source("tfds:sized/5x5", data_dir=tmp_path, image_size=3)
    assert source.splits == {"train": 4} and source.read("train").image.shape == (4, 3, 3, 3)


def test_the_module_is_cheap_to_import():
    program = (
        "import sys; import marble.data.sources, marble.data.loader, marble.cli.data;"
        "heavy = {'tensorflow_datasets', 'tensorflow', 'grain', 'sklearn', 'PIL', 'jax'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
