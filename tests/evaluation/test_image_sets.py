"""Sets of images: the same pixels, and the same hash, from whatever they are read."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from marble.data.digits import CLASS_NAMES
from marble.data.sources import open_source
from marble.errors import InputError
from marble.evaluation import image_sets
from marble.evaluation.collected import collect
from marble.metrics.rows import spread

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)


def write_folder(folder, images=IMAGES, mode=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
        (picture.convert(mode) if mode else picture).save(folder / f"{i}.png")
    return folder


def pixels(images):
    return np.concatenate(list(images.batches(3)))


def test_the_same_images_from_a_folder_an_npz_and_an_array_have_one_hash(tmp_path):
    np.savez(tmp_path / "images.npz", IMAGES)
    sets = [
        image_sets.of_arrays(IMAGES),
        image_sets.open_images(str(tmp_path / "images.npz")),
        image_sets.open_images(str(write_folder(tmp_path / "folder"))),
    ]
    for images in sets:
        np.testing.assert_array_equal(pixels(images), IMAGES)
        assert (images.num, images.shape) == (7, (6, 5, 3))
    hashes = {collect(images, {}, str(tmp_path), batch_size=size).hash for images in sets for size in (2, 64)}
    assert hashes == {hashlib.sha256(b"(6, 5, 3)" + IMAGES.tobytes()).hexdigest()[:16]}
    other = IMAGES.copy()
    other[3, 0, 0, 0] ^= 1
    assert collect(image_sets.of_arrays(other), {}, str(tmp_path)).hash not in hashes


def test_a_part_is_from_all_over_and_keeps_its_texts():
    whole = image_sets.of_arrays(IMAGES, texts=list("abcdefg"))
    part = whole.take(3)
    chosen = ["abcdefg".index(text) for text in part.texts]
    np.testing.assert_array_equal(pixels(part), IMAGES[chosen])
    assert all(low <= i < high for i, low, high in zip(chosen, (0, 2, 4), (2, 4, 7), strict=True))
    assert whole.take(None) is whole.take(7) is whole
    for num in (0, 8):
        with pytest.raises(InputError, match=f"{num} images asked for, and arrays has 7: give from 1 to 7"):
            whole.take(num)


def test_a_part_of_classes_in_turn_has_all_of_them():
    """Evenly spaced images would be of one class; the first ones of a sorted set too."""
    for classes in (np.arange(10_000) % 10, np.arange(10_000) // 1000):
        found = np.bincount(classes[spread(1000, 10_000)], minlength=10)
        assert found.min() > 60 and found.sum() == 1000 and len(np.unique(spread(1000, 10_000))) == 1000


def test_a_data_set_is_stretched_to_8_bits():
    digits = image_sets.open_images("digits:test")
    source = open_source("digits")
    wanted = np.round(source.read("test").image[:9] * (255 / 16)).astype(np.uint8)
    np.testing.assert_array_equal(next(digits.batches(9)), wanted)
    assert digits.name == "digits:test" and digits.num == source.splits["test"] and len(CLASS_NAMES) == 10
    assert image_sets.open_images("digits").name == "digits:train"
    assert image_sets.dataset_and_split("tfds:mnist:test") == ("tfds:mnist", "test")
    assert image_sets.dataset_and_split("tfds:mnist") == ("tfds:mnist", None)


def test_a_folder_of_several_sizes_is_cut_to_one_that_is_given(tmp_path):
    folder = write_folder(tmp_path / "folder")
    Image.fromarray(np.full((9, 9, 3), 77, np.uint8)).save(folder / "large.png")
    with pytest.raises(InputError, match="0.png of 6x5 and large.png of 9x9: give --image_size"):
        image_sets.open_images(str(folder))
    images = image_sets.open_images(str(folder), image_size=4)
    assert pixels(images).shape == (8, 4, 4, 3) and images.shape == (4, 4, 3)
    np.testing.assert_array_equal(pixels(images)[-1], 77)


def test_grey_images_among_coloured_ones_are_coloured(tmp_path):
    folder = write_folder(tmp_path / "folder")
    Image.fromarray(np.full((6, 5), 9, np.uint8)).save(folder / "grey.png")
    assert image_sets.open_images(str(folder)).shape == (6, 5, 3)
    grey = image_sets.open_images(str(write_folder(tmp_path / "grey", mode="L")))
    assert grey.shape == (6, 5, 1)


def test_captions_and_splits_of_a_folder(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder / "train", IMAGES[:2])
    write_folder(folder / "test", IMAGES[2:])
    lines = [f'{{"file_name": "{i}.png", "text": "text {i}"}}' for i in range(2)]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    lines = [f'{{"file_name": "{i}.png", "text": "other {i}"}}' for i in range(5)]
    (folder / "test" / "metadata.jsonl").write_text("\n".join(lines))
    assert list(image_sets.open_images(str(folder)).texts) == ["text 0", "text 1"]
    held_out = image_sets.open_images(f"{folder}:test")
    assert held_out.num == 5 and held_out.name == f"{folder}:test"
    with pytest.raises(InputError, match="has no split 'other': there are train, test"):
        image_sets.open_images(f"{folder}:other")


def test_what_is_no_set_of_images_is_told_in_one_line(tmp_path, caplog):
    (tmp_path / "text.txt").write_text("no image")
    with pytest.raises(InputError, match="text.txt is a file, and no npz"):
        image_sets.open_images(str(tmp_path / "text.txt"))
    with pytest.raises(InputError, match="names no image"):
        image_sets.open_images(str(tmp_path))
    folder = write_folder(tmp_path / "folder")
    (folder / "notes.txt").write_text("a note")
    assert image_sets.open_images(str(folder)).num == 7
    assert "1 files of other kinds are not taken, the first is notes.txt" in caplog.text
    (folder / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"3\.png is not a readable image"):
        image_sets.open_images(str(folder))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(InputError, match=r"has no images \(arr_0\) but weights"):
        image_sets.open_images(str(tmp_path / "other.npz"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:40])
    with pytest.raises(InputError, match="can't be read as an npz"):
        image_sets.open_images(str(tmp_path / "cut.npz"))
    with pytest.raises(InputError, match="pixels of float64: give 8 bits"):
        image_sets.of_arrays(IMAGES / 255)
    with pytest.raises(InputError, match=r"images of shape \[6, 5, 3\]"):
        image_sets.of_arrays(IMAGES[0])
    with pytest.raises(InputError, match="cifar100"):
        image_sets.open_images("cifar100")
