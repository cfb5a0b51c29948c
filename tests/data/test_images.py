import io
import zlib

import numpy as np
import pytest
from PIL import Image

from marble.data import images
from marble.errors import InputError

RNG = np.random.default_rng(4)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encoded(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def turned(array, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(array), exif=exif)


def decoded(content, channels=3, image_size=None):
    return images.decode(content, "name", channels=channels, image_size=image_size)


def test_lossless_images_keep_their_pixels():
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(COLOUR))), COLOUR)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(GREY)), channels=1), GREY[..., None])
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(GREY))), np.repeat(GREY[..., None], 3, -1))
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(COLOUR), "BMP")), COLOUR)


def test_transparent_pixels_show_white():
    alpha = np.zeros((6, 9, 1), np.uint8)
    alpha[:, 4:] = 255
    content = encoded(Image.fromarray(np.concatenate([COLOUR, alpha], -1)))
    np.testing.assert_array_equal(decoded(content), np.where(alpha == 255, COLOUR, 255))


@pytest.mark.parametrize("orientation, upright", [(3, np.rot90(COLOUR, 2)), (6, np.rot90(COLOUR, -1))])
def test_a_turned_photograph_is_set_upright(orientation, upright):
    content = turned(COLOUR, orientation)
    np.testing.assert_array_equal(decoded(content), upright)
    stored = Image.open(io.BytesIO(images.storable(content, "name")))
    assert not stored.getexif()
    np.testing.assert_array_equal(np.asarray(stored), upright)
    assert images.header_shape(io.BytesIO(content), "name") == upright.shape


@pytest.mark.parametrize("mode, channels", [("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("LA", 3), ("RGBA", 3)])
def test_the_header_tells_the_shape(mode, channels):
    content = encoded(Image.fromarray(COLOUR).convert(mode))
    assert images.header_shape(io.BytesIO(content), "name") == (6, 9, channels)


@pytest.mark.parametrize("fmt, mode, kept", [("PNG", "RGB", True), ("PNG", "L", True), ("JPEG", "RGB", True),
                                             ("PNG", "RGBA", False), ("PNG", "P", False), ("JPEG", "CMYK", False),
                                             ("WEBP", "RGB", False), ("GIF", "P", False)])  # fmt: skip
def test_stored_images_are_plain_and_show_the_same(fmt, mode, kept):
    content = encoded(Image.fromarray(COLOUR).convert(mode), fmt)
    stored = images.storable(content, "name")
    assert (stored == content) == kept
    assert Image.open(io.BytesIO(stored)).mode in ("L", "RGB")
    np.testing.assert_array_equal(decoded(stored), decoded(content))


def png_of_16_bits(pixels):
    """A PNG of these pixels [h w c] uint16, which PIL can't write in colour."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, {1: 0, 3: 2}[channels], 0, 0, 0])
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bits_the_higher_8_are_taken_grey_as_in_colour(channels):
    deep = np.random.default_rng(1).integers(0, 2**16, (5, 6, channels), dtype=np.uint16)
    content = png_of_16_bits(deep)
    assert images.header_shape(io.BytesIO(content), "deep.png") == deep.shape
    stored = images.storable(content, "deep.png")
    for encoded_image in (content, stored):
        found = images.decode(encoded_image, "deep.png", channels=channels, image_size=None)
        np.testing.assert_array_equal(found, deep >> 8)


def test_images_of_32_bits_are_refused():
    content = encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF")
    with pytest.raises(InputError, match=r"deep\.tif has pixels of kind I: save it with 8 or 16 bits"):
        images.header_shape(io.BytesIO(content), "deep.tif")


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b[:10], lambda b: b"", lambda b: b"text"])
def test_unreadable_images_are_named(damage):
    content = damage(encoded(Image.fromarray(COLOUR)))
    with pytest.raises(InputError, match=r"bad\.png is not a readable image"):
        images.storable(content, "bad.png")
    with pytest.raises(InputError, match=r"bad\.png is not a readable image"):
        images.decode(content, "bad.png", channels=3, image_size=None)


def test_resizing_is_the_shorter_side_then_the_centred_square():
    wide = np.random.default_rng(5).integers(0, 256, (8, 20, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(wide).resize((10, 4), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(images.resize(wide, 4), whole[:, 3:7])
    # Not the same turned: before 13 Pillow rounds to 8 bits between its two passes, of which that along rows is first.
    tall = np.ascontiguousarray(wide.swapaxes(0, 1))
    whole = np.asarray(Image.fromarray(tall).resize((4, 10), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(images.resize(tall, 4), whole[3:7])
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(wide)), image_size=8), wide[:, 6:14])


def test_resizing_is_antialiased():
    """A fine checkerboard made much smaller is its mean grey: a filter that skips pixels would show stripes."""
    checks = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    small = images.resize(checks.astype(np.uint8)[..., None], 8)
    assert small.shape == (8, 8, 1)
    np.testing.assert_allclose(small, 127.5, atol=4)


def test_an_image_of_the_asked_size_is_not_touched():
    square = COLOUR[:, :6]
    np.testing.assert_array_equal(images.resize(square, 6), square)
