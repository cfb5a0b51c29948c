import json

import numpy as np
import pytest

from marble.data import stored
from marble.data.examples import ArrayExamples, StoredExamples
from marble.data.loader import train_batches
from marble.data.prepare import prepare
from marble.errors import InputError

RNG = np.random.default_rng(12)


@pytest.fixture
def folder_builder(tmp_path, write_folder):
    """open(images, rows): the images as a prepared folder."""

    def open_folder(images, rows=None):
        source = write_folder(tmp_path / "folder", images, rows)
        prepared = prepare("image_folder", source=source, data_dir=tmp_path / "data")
        return stored.open_builder("image_folder", prepared.directory)

    return open_folder


def test_large_splits_are_decoded_when_asked_for(folder_builder, monkeypatch):
    images = RNG.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    rows = [{"file_name": f"{i}.png", "label": i % 3, "text": f"number {i}"} for i in range(9)]
    builder = folder_builder(images, rows)
    held = stored.read_split(builder, "train", shape=(4, 5, 3), image_size=None)
    assert isinstance(held, ArrayExamples)
    monkeypatch.setattr(stored, "IN_MEMORY_BYTES", images.nbytes - 1)
    asked = stored.read_split(builder, "train", shape=(4, 5, 3), image_size=None)
    assert isinstance(asked, StoredExamples) and len(asked) == len(held) == 9
    for i in range(9):
        for example in (held[i], asked[i]):
            np.testing.assert_array_equal(example["image"], images[i])
            assert (example["label"], example["text"]) == (i % 3, f"number {i}")
            assert isinstance(example["label"], np.int32)
    first = [next(train_batches(examples, batch_size=4, seed=0)) for examples in (held, asked)]
    np.testing.assert_array_equal(first[0]["image"], first[1]["image"])


def test_more_examples_than_a_chunk_keep_their_order(folder_builder, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK_EXAMPLES", 4)
    images = RNG.integers(0, 256, (9, 4, 5), dtype=np.uint8)
    examples = stored.read_split(folder_builder(images), "train", shape=(4, 5, 1), image_size=None)
    np.testing.assert_array_equal(examples.image[..., 0], images)
    assert examples.label is None and examples.text is None


def test_the_first_two_that_differ_are_named(folder_builder):
    builder = folder_builder([RNG.integers(0, 256, size, dtype=np.uint8) for size in ((4, 5), (4, 5), (4, 6), (7, 7))])
    with pytest.raises(InputError, match=r"0\.png is 5x4 \(width x height\) and 2\.png is 6x4 .*image_size"):
        stored.image_shape("image_folder", builder, None)
    assert stored.image_shape("image_folder", builder, 4) == (4, 4, 1)
    assert stored.read_split(builder, "train", shape=(4, 4, 1), image_size=4).image.shape == (4, 4, 4, 1)


def test_a_shape_that_is_not_declared_is_found(tmp_path, write_tfds):
    images = RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    write_tfds(tmp_path, "loose", images, [0, 1, 0], shape=(None, None, 3))
    builder = stored.open_builder("tfds:loose", tmp_path / "loose" / "1.0.0")
    assert stored.image_shape("tfds:loose", builder, None) == (4, 5, 3)


def test_a_format_without_random_access_is_refused(tmp_path, write_tfds):
    write_tfds(tmp_path, "records", RNG.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8), [0, 1])
    path = tmp_path / "records" / "1.0.0" / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(InputError, match=r"can't be read by index .*file_format='array_record'"):
        stored.open_builder("tfds:records", path.parent)


@pytest.mark.parametrize(
    "features, message",
    [
        ({"audio": ("Tensor", (3,), np.uint8)}, "has no feature 'image'"),
        ({"image": ("Tensor", (4, 4, 3), np.float32)}, r"image of shape \(4, 4, 3\) and type float32"),
        ({"image": ("Tensor", (4, 4), np.uint8)}, r"image of shape \(4, 4\) and type uint8"),
        ({"image": ("Tensor", (4, 4, 2), np.uint8)}, r"image of shape \(4, 4, 2\)"),
    ],
)
def test_data_that_are_not_images_are_refused(tmp_path, features, message):
    import tensorflow_datasets as tfds

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            columns = {key: getattr(tfds.features, kind)(shape=s, dtype=d) for key, (kind, s, d) in features.items()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(columns))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {key: np.zeros(shape, dtype) for key, (_, shape, dtype) in features.items()}

    builder = Other(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record", download_dir=tmp_path / "no-downloads")
    with pytest.raises(InputError, match=message):
        stored.open_builder("tfds:other", builder.data_path)
