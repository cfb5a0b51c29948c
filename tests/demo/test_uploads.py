"""Uploads: what is no image, or too large, is told before a pixel is decoded; no file of elsewhere is read."""

import contextlib

import numpy as np
import pytest
from from_outside import encoded, png_header

from marble.data import images
from marble.demo import uploads
from marble.demo.limits import Limits
from marble.errors import InputError

LIMITS = Limits(max_bytes=100_000, max_pixels=300 * 200)
SHAPE = (8, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_cut_to_its_middle_and_resized(kind):
    content = encoded(kind)
    expected = images.resize(images.decode(content, "it", channels=3, image_size=None), (8, 8))
    np.testing.assert_array_equal(uploads.read_image(content, SHAPE, LIMITS), expected)
    assert uploads.read_image(content, (5, 9, 1), LIMITS).shape == (5, 9, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded("PNG")[:-600], "can't be decoded, it was cut or damaged: save it again"),
        (encoded("JPEG")[:200], "can't be|can't be read"),
        (png_header(20_000, 20_000), r"has 20000 x 20000 pixels, more than 60,000 \(244 x 244\): make it smaller"),
        (png_header(20_000, 20_000)[:33], "is a PNG whose header can't be read: save it again"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG whose header can't be read: save it again"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing: give a PNG, JPEG"),
        (b"a letter, not an image", "is a text, not an image: give a PNG, JPEG or WebP image"),
        (encoded("GIF"), "is no image of a known kind: give a PNG, JPEG or WebP image"),
        (encoded("TIFF"), "is no image of a known kind"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is a WebP whose header can't be read"),
        (b"", "is empty: give a PNG, JPEG or WebP image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100_000), "has more than 0.0953674 MB: make it smaller"),
    ],
    ids=[
        "cut-png",
        "cut-jpeg",
        "huge",
        "cut-header",
        "no-header",
        "svg",
        "text",
        "gif",
        "tiff",
        "no-webp",
        "empty",
        "many-bytes",
    ],
)
def test_what_cannot_be_taken_is_told(content, message):
    with pytest.raises(InputError, match=message) as refusal:
        uploads.read_image(content, SHAPE, LIMITS)
    assert str(refusal.value).startswith("the upload ")


def test_the_header_is_checked_before_pixels_are_decoded(monkeypatch):
    monkeypatch.setattr(uploads, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(InputError, match="20000 x 20000"):
        uploads.read_image(png_header(20_000, 20_000), SHAPE, LIMITS)


def test_any_damage_is_an_input_error():
    content, rng = encoded("PNG"), np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(kind)
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 5):
                damaged[place] = rng.integers(0, 256)
            with contextlib.suppress(InputError):
                assert uploads.read_image(bytes(damaged), SHAPE, LIMITS).shape == SHAPE


def test_a_mask_is_what_was_painted_over():
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[8:32, 16:40] = (255, 0, 0, 190)
    layer[40:42, 0:2, 3] = 255  # a sixteenth of a pixel
    mask = uploads.read_mask(encoded("PNG", layer), SHAPE, LIMITS)
    expected = np.zeros((8, 8), bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(InputError, match="the mask can't be decoded"):
        uploads.read_mask(encoded("PNG", layer)[:60], SHAPE, LIMITS)


def test_only_files_of_the_page_s_folder_are_read(tmp_path):
    folder, secret = tmp_path / "page", tmp_path / "secret.png"
    folder.mkdir()
    (folder / "mine.png").write_bytes(b"mine")
    secret.write_bytes(b"secret")
    (folder / "link.png").symlink_to(secret)
    assert uploads.stored_upload({"path": str(folder / "mine.png")}, folder, LIMITS) == b"mine"
    outside = [
        secret,
        folder / ".." / "secret.png",
        folder / "link.png",
        folder,
        "/etc/passwd",
        "http://127.0.0.1/a.png",
    ]
    for path in [*map(str, outside), "mine.png", str(folder / "none.png"), str(folder) + "x", "a" * 5000]:
        with pytest.raises(InputError, match="upload it again"):
            uploads.stored_upload({"path": path}, folder, LIMITS)
    for payload in (None, {}, {"path": None}, {"path": ""}, {"path": "\0"}, {"path": ["a"]}, "/etc/passwd", 3):
        with pytest.raises(InputError, match="there is no image: give a PNG, JPEG or WebP image"):
            uploads.stored_upload(payload, folder, LIMITS)
