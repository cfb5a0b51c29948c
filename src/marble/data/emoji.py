"""Captioned images of any machine: the pictures of a colour-emoji font, by the names that Unicode has for them.

Single characters of Unicode's blocks of pictures that the font has a picture of: faces, animals, food, things. What is
composed of several characters, as flags and families are, has no name in Python's tables and is left out.
"""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from marble.errors import InputError
from marble.storage import replaced_folder

FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
)
"""Where Linux's packages put it."""
BLOCKS = ((0x2600, 0x27C0), (0x1F300, 0x1F650), (0x1F680, 0x1F700), (0x1F900, 0x1FB00))
"""Miscellaneous symbols and dingbats; pictographs and emoticons; transport; the two supplements."""
STRIKE = 109
"""Pixels of the pictures in NotoColorEmoji: a font of bitmaps has one size."""


def render(out: Path, *, font: Path | None = None, size: int = 128) -> int:
    """Writes a folder of captioned images, and says how many there are.

    It is one that ``data.name='image_folder'`` reads, and is there as a whole or not at all. InputError where there is
    no such font, or OUT has something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} has something in it: give a new folder")
    if not 8 <= size <= 1024:
        raise InputError(f"--size {size} must be between 8 and 1024 pixels")
    pictures = list(_pictures(_opened(font)))
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with replaced_folder(epath.Path(out)) as made:
        (made / "images").mkdir()
        for name, picture in tqdm(pictures, "emoji", unit="image", disable=None):
            file = f"images/{name.replace(' ', '_')}.png"
            _on_white(picture, size).save(made / file)
            lines.append(json.dumps({"file_name": file, "text": name}))
        (made / "metadata.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return len(lines)


def _opened(font: Path | None) -> ImageFont.FreeTypeFont:
    """The font; InputError where there is none, or one without pictures."""
    found = [Path(path) for path in FONTS if Path(path).is_file()] if font is None else [font]
    if not found:
        raise InputError(
            "no colour-emoji font is installed: apt-get install fonts-noto-color-emoji, or give --font FILE"
        )
    try:
        return ImageFont.truetype(str(found[0]), STRIKE)
    except OSError as error:
        raise InputError(f"--font {found[0]} is no font of pictures ({error}): give NotoColorEmoji.ttf") from error


def _pictures(font: ImageFont.FreeTypeFont) -> Iterator[tuple[str, Image.Image]]:
    """The name and the picture, cut to what is drawn, of each character that the font has one of."""
    missing = np.asarray(_drawn(font, "\U000fffff"))
    for first, end in BLOCKS:
        for code in range(first, end):
            name = unicodedata.name(chr(code), None)
            if name is None:
                continue
            picture = _drawn(font, chr(code))
            box = picture.getbbox()
            pixels = np.asarray(picture)
            # Without colour it is a letter's outline, or the box that stands for what a font does not have.
            if box is None or np.array_equal(pixels, missing) or not _is_coloured(pixels):
                continue
            yield name.lower(), picture.crop(box)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    canvas = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((STRIKE // 4, STRIKE // 4), character, font=font, embedded_color=True)
    return canvas


def _is_coloured(pixels: np.ndarray) -> bool:
    """Whether something else than black is drawn."""
    return bool((pixels[..., :3][pixels[..., 3] > 0] > 8).any())


def _on_white(picture: Image.Image, size: int) -> Image.Image:
    """The picture in the middle of a white square of this side, an eighth of it left around."""
    largest = size - size // 8
    scale = largest / max(picture.size)
    sides = tuple(max(1, round(scale * side)) for side in picture.size)
    square = Image.new("RGBA", (size, size), "white")
    square.alpha_composite(picture.resize(sides, Image.Resampling.LANCZOS), tuple((size - side) // 2 for side in sides))
    return square.convert("RGB")
