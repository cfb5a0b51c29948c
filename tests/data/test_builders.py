"""What our builders store, read back by tensorflow-datasets alone."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from marble.data import builders
from marble.data.folder import list_folder
from marble.data.originals import Pixels
from marble.errors import InputError

RNG = np.random.default_rng(9)


def stored(builder, tmp_path):
    """{split: [example, ...]} as any user of tensorflow-datasets reads it."""
    builder.download_and_prepare(file_format="array_record", download_dir=tmp_path / "no-downloads")
    reader = tfds.builder_from_directory(builder.data_path)
    return reader, {split: list(reader.as_data_source(split)) for split in reader.info.splits}


@pytest.mark.parametrize("name, classes", [("mnist", "0"), ("fashion_mnist", "T-shirt/top"), ("cifar10", "airplane")])
def test_pixels_are_stored_in_their_order(tmp_path, name, classes):
    splits = {
        split: Pixels(RNG.integers(0, 256, (n, 4, 3, 1), dtype=np.uint8), RNG.integers(0, 10, n, dtype=np.uint8))
        for split, n in (("train", 40), ("test", 7))
    }
    reader, found = stored(builders.PIXELS[name](splits, origin="here", data_dir=tmp_path), tmp_path)
    assert reader.info.name == f"marble_{name}"
    assert reader.info.features["label"].names[0] == classes and reader.info.features["label"].num_classes == 10
    for split, pixels in splits.items():
        np.testing.assert_array_equal(np.stack([e["image"] for e in found[split]]), pixels.image)
        np.testing.assert_array_equal([e["label"] for e in found[split]], pixels.label)


def test_a_folder_is_stored_with_all_that_it_says(tmp_path, write_folder):
    images = RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    rows = [{"file_name": f"{i}.png", "text": f"número {i}", "label": "ba"[i % 2]} for i in (2, 0, 1)]
    folder = list_folder(write_folder(tmp_path / "folder", images, rows))
    reader, found = stored(builders.MarbleImageFolder(folder, origin="here", data_dir=tmp_path), tmp_path)
    assert reader.info.features["image"].shape == (4, 5, 3)
    assert reader.info.features["label"].names == ["a", "b"]
    for row, example in zip(rows, found["train"], strict=True):
        np.testing.assert_array_equal(example["image"], images[int(row["file_name"][0])])
        assert example["file_name"].decode() == row["file_name"] and example["text"].decode() == row["text"]
        assert "ab"[example["label"]] == row["label"]


@pytest.mark.parametrize(
    "shapes, common",
    [
        ([(4, 5), (4, 5)], (4, 5, 1)),
        ([(4, 5), (4, 5, 3)], (4, 5, 3)),
        ([(4, 5, 3), (4, 6, 3)], (4, None, 3)),
        ([(4, 5), (3, 6)], (None, None, 1)),
    ],
)
def test_a_folder_declares_the_shape_that_its_images_share(tmp_path, write_folder, shapes, common):
    images = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    folder = list_folder(write_folder(tmp_path / "folder", images))
    assert builders.MarbleImageFolder(folder, origin="here", data_dir=tmp_path).info.features["image"].shape == common


def test_an_unreadable_image_is_named(tmp_path, write_folder):
    images = RNG.integers(0, 256, (3, 14, 15, 3), dtype=np.uint8)
    path = write_folder(tmp_path / "folder", images) / "1.png"
    path.write_bytes(path.read_bytes()[:-40])
    builder = builders.MarbleImageFolder(list_folder(path.parent), origin="here", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"folder/1\.png is not a readable image"):
        builder.download_and_prepare(file_format="array_record", download_dir=tmp_path / "no-downloads")


def test_stock_builders_are_not_shadowed():
    from tensorflow_datasets.core import registered

    assert not [name for name in registered.list_imported_builders() if name.startswith("marble")]
