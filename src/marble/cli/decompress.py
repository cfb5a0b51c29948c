"""marble decompress: the images of a file of marble compress.

  marble decompress --workdir runs/digits --input digits.mrbl --out images.npz
  marble decompress --workdir runs/digits --input digits.mrbl --out blurred --prefix 0.4

Writes arr_0, uint8 [n h w c], to an npz, or a PNG an image to a folder that has none. With --prefix only the first
bytes, or that share of the file, are read, and what they say of the images is written: x_0 as it is predicted at the
deepest transition that is complete. It takes the checkpoint, the libraries and the machine that made the file.
"""

import logging
from pathlib import Path

import numpy as np
from absl import flags

from marble.cli.flags import check_writable, naming, parse, require
from marble.errors import InputError

logger = logging.getLogger(__name__)


def define(values: flags.FlagValues) -> None:
    """The flags of marble decompress."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run.", **text)
    flags.DEFINE_string("input", None, "The compressed file.", **text)
    flags.DEFINE_string("out", None, "NAME.npz, or a folder without PNG.", **text)
    flags.DEFINE_string("prefix", None, "Read so many bytes only (2000), or that share (0.4; 1.0 is all).", **text)
    flags.DEFINE_integer("step", None, "Checkpoint that made the file (default: the newest whole one).", **text)


def main(argv: list[str]) -> int:
    """Decompresses, and returns the exit status."""
    values = parse("decompress", __doc__, argv, define)
    require(values, "workdir", "input", "out")
    check_out(values.out)
    data = read_input(values.input)
    from marble.compression import read
    from marble.compression.format import header_size
    from marble.data.preprocess import to_uint8
    from marble.loading import load
    from marble.parallel import log_devices
    from marble.pipelines.image_files import stretched, write_images
    from marble.pipelines.lossless import LosslessCompressor

    is_prefix = values.prefix is not None
    with naming(values.input):  # a damaged file is refused before anything is compiled
        if is_prefix:
            data = data[: prefix_bytes(values.prefix, len(data), header_size(data))]
        read(data, prefix=is_prefix)
    log_devices()
    pipe = load(values.workdir, step=values.step)
    with naming(f"--workdir {values.workdir}"):
        compressor = LosslessCompressor(pipe, progress=True)
    with naming(values.input):
        images, exact = compressor.decompress(data, prefix=is_prefix)
    levels = compressor.image.levels
    write_images(Path(values.out), stretched(images, levels) if exact else np.asarray(to_uint8(images, levels)))
    logger.info(
        "wrote %s: %s images, %s", values.out, f"{len(images):,}", "exact" if exact else f"from {len(data)} bytes"
    )
    return 0


def check_out(out: str) -> None:
    """InputError unless --out is an npz, or a folder without PNG, that can be written."""
    path = Path(out)
    if path.suffix == ".npz":
        return check_writable("out", str(path.parent), [path.name])
    if path.suffix and not path.is_dir() and not out.endswith("/"):
        raise InputError(f"--out {out} is no npz: give NAME.npz, or for a folder of PNG a name that ends with /")
    check_writable("out", out)
    if path.is_dir():
        from marble.pipelines.image_files import pngs_of

        if found := pngs_of(path):
            raise InputError(f"--out {out} has PNG already ({found[0].name}): give another folder, or take them out")


def read_input(name: str) -> bytes:
    """The bytes of the compressed file; InputError where there is none."""
    if Path(name).is_dir():
        raise InputError(f"--input {name} is a folder: give the file that marble compress wrote")
    if not Path(name).is_file():
        raise InputError(f"there is no file {name}")
    return Path(name).read_bytes()


def prefix_bytes(text: str, size: int, header: int) -> int:
    """The bytes that --prefix asks for, of a file of this size; InputError for no number, or one out of range.

    A whole number is bytes, any other a share. header is the size of the file's header, the fewest that decode.
    """
    try:
        share = int(text) / size if text.lstrip("+-").isdecimal() else float(text)
    except ValueError as error:
        raise InputError(f"--prefix {text} is no number: give bytes (2000) or a share (0.4)") from error
    if not 0 < share <= 1:
        raise InputError(f"--prefix {text} must be above 0 and at most the file's {size} bytes, or 1.0")
    wanted = max(1, round(share * size))
    if wanted < header:
        remedy = "give 1.0 for the whole file, as 1 is one byte" if text == "1" else "give at least so many"
        raise InputError(f"--prefix {text} is less than the file's header of {header} bytes: {remedy}")
    return wanted
