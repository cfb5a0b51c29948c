"""marble decompress: the images of a file of marble compress.

  marble decompress --workdir runs/digits --input digits.mrbl --out images.npz
  marble decompress --workdir runs/digits --input digits.mrbl --out blurred --prefix 0.4

Writes arr_0, uint8 [n h w c], to an npz, or a PNG an image to a folder. With --prefix only the first bytes, or that
share of the file, are read, and what they say of the images is written: x_0 as it is predicted at the deepest
transition that is complete. It takes the workdir, the libraries and the machine that made the file.
"""

import logging
from pathlib import Path

import numpy as np
from absl import flags

from marble.cli.flags import check_writable, parse, require
from marble.errors import InputError

logger = logging.getLogger(__name__)


def define(values: flags.FlagValues) -> None:
    """The flags of marble decompress."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run.", **text)
    flags.DEFINE_string("input", None, "The compressed file.", **text)
    flags.DEFINE_string("out", None, "NAME.npz, or a folder for PNG.", **text)
    flags.DEFINE_string("prefix", None, "Read so many bytes only, or with a point in it that share (0.4).", **text)
    flags.DEFINE_integer("step", None, "Checkpoint to use (default: the newest whole one).", **text)


def main(argv: list[str]) -> int:
    """Decompresses, and returns the exit status."""
    values = parse("decompress", __doc__, argv, define)
    require(values, "workdir", "input", "out")
    check_writable("out", str(Path(values.out).parent))
    if not Path(values.input).is_file():
        raise InputError(f"there is no file {values.input}")
    data = Path(values.input).read_bytes()
    if values.prefix is not None:
        data = data[: prefix_bytes(values.prefix, len(data))]
    from marble.builders import load
    from marble.compression import read
    from marble.data.preprocess import to_uint8
    from marble.parallel import log_devices
    from marble.pipelines.image_files import stretched, write_images
    from marble.pipelines.lossless import LosslessCompressor

    read(data, prefix=values.prefix is not None)  # a damaged file is refused before anything is compiled
    log_devices()
    compressor = LosslessCompressor(load(values.workdir, step=values.step), progress=True)
    images, exact = compressor.decompress(data, prefix=values.prefix is not None)
    levels = compressor.image.levels
    write_images(Path(values.out), stretched(images, levels) if exact else np.asarray(to_uint8(images, levels)))
    logger.info(
        "wrote %s: %s images, %s", values.out, f"{len(images):,}", "exact" if exact else f"from {len(data)} bytes"
    )
    return 0


def prefix_bytes(text: str, size: int) -> int:
    """The bytes that --prefix asks for; InputError for no number, or one out of range."""
    try:
        share = float(text) if "." in text else int(text) / size
    except ValueError as error:
        raise InputError(f"--prefix {text} is no number: give bytes (2000) or a share (0.4)") from error
    if not 0 < share <= 1:
        raise InputError(f"--prefix {text} must be above 0 and at most the file's {size} bytes, or 1.0")
    return round(share * size)
