"""The flags of marble sample that say what images are of, and how many there are: --text, --negative_text, --num.

Image i of a run has prompt i modulo their number, so that --first goes on where a run ended, in the prompts too.
"""

from pathlib import Path
from typing import Any

from absl import flags

from marble.errors import InputError
from marble.storage import expanded

NUM = 64
"""Images of a model that reads no text, where no number is asked for."""

MOST = 2**32 - 1
"""Images have indices of 32 bits."""

MOST_COLUMNS = 16
"""Prompts that a picture has beside each other."""


def define(values: flags.FlagValues) -> None:
    """These flags."""
    text = dict(flag_values=values)
    flags.DEFINE_integer(
        "num", None, f"How many images (default: one a prompt; of a model without text, {NUM}).", **text
    )
    define_texts(values)


def define_texts(values: flags.FlagValues) -> None:
    """Those of the texts."""
    text = dict(flag_values=values)
    flags.DEFINE_multi_string("text", None, "What an image is of, for a model of texts; @FILE has one a line.", **text)
    flags.DEFINE_multi_string("negative_text", None, "What guidance goes away from, in place of no text.", **text)


def read(values: flags.FlagValues) -> None:
    """Puts the texts of the files that the flags name in their place; InputError where there is none."""
    for flag in ("text", "negative_text"):
        given = values[flag].value
        if given is not None:
            if "" in given:
                raise InputError(f"--{flag} is empty: give a text, or leave it out")
            setattr(values, flag, [line for text in given for line in _texts(flag, text)])


def number_of_images(values: flags.FlagValues, pipe: Any, least: int = 1) -> int:
    """--num; where it is not given, one image a prompt and no fewer than least, or of a model without text NUM.

    InputError for a number of images that can't be.
    """
    if values.num is not None:
        if not 1 <= values.num <= MOST:
            raise InputError(f"{values.num} images asked for: give at least 1, and at most {MOST}")
        return values.num
    reads_text = "text" in getattr(getattr(pipe, "conditioner", None), "requests", ())
    return max(least, len(values.text or ())) if reads_text else NUM


def columns(texts: list[str] | None, num: int) -> int | None:
    """Of the picture of num images: one a prompt, where several prompts have more than one image."""
    count = len(texts or ())
    return count if 1 < count <= MOST_COLUMNS and num > count else None


def in_turn(texts: list[str] | None, num: int, first: int) -> str | list[str] | None:
    """The one text for all images first .. first + num - 1, or one for each."""
    if texts is None or len(texts) == 1:
        return texts and texts[0]
    return [texts[i % len(texts)] for i in range(first, first + num)]


def of_one(flag: str, texts: list[str] | None) -> str | None:
    """The text for images that share one; InputError for several."""
    if texts is not None and len(texts) > 1:
        raise InputError(f"--{flag} has {len(texts)} texts, and --interpolate makes images of one: give one")
    return texts and texts[0]


def _texts(flag: str, text: str) -> list[str]:
    """The text, or the lines of the file that it names."""
    if text.startswith("@@"):
        return [text[1:]]
    if not text.startswith("@"):
        return [text]
    if text == "@":
        raise InputError(f"--{flag} @ names no file: give @FILE, or @@ for a text that begins with @")
    path = Path(expanded(text[1:]))
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--{flag} {text}: {path} can't be read: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"--{flag} {text}: {path} has no prompt in it: write one a line")
    return lines
