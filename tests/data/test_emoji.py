"""The pictures of a colour-emoji font as a folder of captioned images; where none is installed, what is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marble.cli import data as command
from marble.data import emoji
from marble.data.folder import list_folder
from marble.errors import InputError

installed = pytest.mark.skipif(
    not any(Path(path).is_file() for path in emoji.FONTS), reason="no colour-emoji font: fonts-noto-color-emoji"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("emoji") / "out"
    assert command.main(["emoji", "--out", str(out), "--size", "32"]) == 0
    return out


@installed
def test_each_picture_has_its_unicode_name(folder):
    found = list_folder(folder)
    texts = {entry.text: entry.path for entry in found.splits["train"]}
    assert len(texts) == len(found.entries) > 1000 and not found.unused
    assert {"pizza" not in texts, "slice of pizza" in texts} == {True}
    # Red in the middle of a heart, yellow of a face, and white around both.
    for text, colour in {"heavy black heart": (220, 40, 40), "grinning face": (250, 200, 40)}.items():
        pixels = np.asarray(Image.open(texts[text]), int)
        assert pixels.shape == (32, 32, 3)
        np.testing.assert_array_equal(pixels[0, 0], 255)
        if text == "heavy black heart":
            assert np.abs(pixels[14, 10] - colour).max() < 60


@installed
def test_pictures_are_of_different_things(folder):
    pixels = [np.asarray(Image.open(entry.path)).tobytes() for entry in list_folder(folder).entries]
    assert len(set(pixels)) > 0.99 * len(pixels)


@installed
def test_a_folder_that_is_empty_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "BLOCKS", ((0x1F600, 0x1F604),))
    (tmp_path / "out").mkdir()
    assert emoji.render(tmp_path / "out", size=8) == 4
    assert len(list_folder(tmp_path / "out").entries) == 4


@installed
def test_a_folder_that_has_something_in_it_is_left_alone(folder):
    with pytest.raises(InputError, match="has something in it: give a new folder"):
        emoji.render(folder)


def test_without_a_font_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "FONTS", ())
    with pytest.raises(InputError, match="no colour-emoji font is installed: apt-get install fonts-noto-color-emoji"):
        emoji.render(tmp_path / "out")
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(InputError, match=r"no.ttf is no font of pictures"):
        emoji.render(tmp_path / "out", font=tmp_path / "no.ttf")
    with pytest.raises(InputError, match="--size 4 must be between 8 and 1024 pixels"):
        emoji.render(tmp_path / "out", size=4)
    assert not (tmp_path / "out").exists()
