"""Images in files: what is written is read, and what would lose something is refused."""

import numpy as np
import pytest
from PIL import Image

from marble.data.preprocess import to_float, to_uint8
from marble.errors import InputError
from marble.pipelines.image_files import read_images, stretched, unstretched, write_images


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_come_back_from_8_bits(levels):
    pixels = np.arange(levels)
    np.testing.assert_array_equal(unstretched(stretched(pixels, levels), levels, "x"), pixels)
    np.testing.assert_array_equal(stretched(pixels, levels), to_uint8(to_float(pixels, levels), levels))


def test_values_between_the_levels_are_refused():
    with pytest.raises(InputError, match="pixel value 7, none of the data's 17 levels"):
        unstretched(np.array([0, 16, 7], np.uint8), 17, "x")


@pytest.mark.parametrize("name", ["images.npz", "folder"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back(tmp_path, name, channels):
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 5, channels)).astype(np.uint8)
    write_images(tmp_path / name, images)
    np.testing.assert_array_equal(read_images(tmp_path / name, (4, 5, channels)), images)


def test_what_is_no_image_of_the_model_s_is_refused(tmp_path):
    shape = (4, 5, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", images=np.zeros((1, *shape), np.uint8))
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((1, 6, 5, 1), np.uint8))
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((1, *shape), np.float32))
    np.savez_compressed(tmp_path / "whole.npz", arr_0=np.random.default_rng(0).integers(0, 9, (99, *shape), np.uint8))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-100])
    (tmp_path / "damaged.npz").write_bytes(whole[:200] + bytes(100) + whole[300:])
    np.save(tmp_path / "array.npy", np.zeros((1, *shape), np.uint8))
    Image.new("L", (5, 4)).save(tmp_path / "photo.jpg")
    (tmp_path / "wide").mkdir()
    Image.new("L", (6, 4)).save(tmp_path / "wide" / "0.png")
    for mode in ("RGB", "LA", "P"):
        (tmp_path / mode).mkdir()
        Image.new(mode, (5, 4)).save(tmp_path / mode / "0.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"no picture")
    for name, message in {
        "nowhere": "no file or folder",
        "empty": "has no PNG",
        "text.npz": "not an npz with the images as arr_0, or was cut",
        "cut.npz": "not an npz with the images as arr_0, or was cut",
        "damaged.npz": "not an npz with the images as arr_0, or was cut",
        "floats.npz": "pixels of float32: give 8 bits, uint8",
        "array.npy": "array.npy is not an npz .*, a PNG, or a folder of PNG: give one",
        "photo.jpg": "photo.jpg is not an npz .*, a PNG, or a folder",
        "wide": "4x6 of mode L, .* resize it to 4x5",
        "other.npz": "arr_0",
        "large.npz": "6, 5, 1",
        "RGB": "mode RGB, .* convert it to mode L",
        "LA": "mode LA",
        "P": "mode P",
        "broken": "not a readable PNG",
    }.items():
        with pytest.raises(InputError, match=message):
            read_images(tmp_path / name, shape)
