"""Data sets for training.

marble data prepare NAME [--source DIR] [--data_dir DIR]     writes a data set, once
marble data emoji --out DIR [--font FILE] [--size 128]       a folder of captioned images of a colour-emoji font
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from marble.data.catalogue import NAMES
from marble.data.prepare import Prepared, prepare
from marble.errors import InputError

MOST_CLASSES = 100
"""In the table of classes."""


def main(argv: Sequence[str]) -> int:
    """Runs the words after `marble data`, prints what is there now, and returns the exit status 0.

    Raises InputError and RunError as `marble.data.prepare.prepare` does, and InputError for wrong usage.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "emoji":
        return _emoji(arguments)
    prepared = prepare(arguments.name, source=arguments.source, data_dir=arguments.data_dir)
    print("\n".join([describe(prepared), *class_table(prepared)]))
    return 0


def _emoji(arguments: argparse.Namespace) -> int:
    from marble.data.emoji import render

    font = None if arguments.font is None else Path(arguments.font)
    count = render(Path(arguments.out), font=font, size=arguments.size)
    print(f"emoji: {count:,} images in {arguments.out}, for data.name='image_folder', data.source={arguments.out}")
    return 0


def describe(prepared: Prepared) -> str:
    """One line: the data set, what was done, how many images each split has, and where they are."""
    splits = ", ".join(f"{count:,} {split}" for split, count in prepared.splits.items())
    if prepared.directory is None:
        return f"{prepared.name} is built in, there is nothing to prepare: {splits}"
    done = "prepared" if prepared.fresh else "already prepared, nothing to do"
    return f"{prepared.name}: {done}: {splits} in {prepared.directory}"


def class_table(prepared: Prepared) -> list[str]:
    """The classes, one a line: the number that a label has, its name and, where they were counted, its images."""
    names, counts = prepared.class_names or (), prepared.images_by_class
    width = max(map(len, names[:MOST_CLASSES]), default=0)
    lines = [
        f"  {number:4}  {name:{width}}" + (f"  {counts[number]:,} images" if counts is not None else "")
        for number, name in enumerate(names[:MOST_CLASSES])
    ]
    more = [f"  and {len(names) - MOST_CLASSES} more"] if len(names) > MOST_CLASSES else []
    return [*([f"{len(names)} classes:"] if names else []), *(line.rstrip() for line in lines), *more]


class _Parser(argparse.ArgumentParser):
    """argparse would print its own two lines and exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="marble data", description="Data sets for training.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write a data set for training, once")
    command.add_argument("name", metavar="NAME", help=f"one of {', '.join(NAMES)}")
    command.add_argument("--source", metavar="DIR", help="the folder of the original files; else they are downloaded")
    command.add_argument(
        "--data_dir", metavar="DIR", help="where data sets are kept: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    emoji = commands.add_parser("emoji", help="a folder of captioned images: the pictures of a colour-emoji font")
    emoji.add_argument("--out", metavar="DIR", required=True, help="the folder to make")
    emoji.add_argument("--font", metavar="FILE", help="the font: else NotoColorEmoji.ttf where Linux puts it")
    emoji.add_argument("--size", type=int, default=128, help="pixels a side")
    return parser
