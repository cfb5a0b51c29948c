"""marble compress: images to one file without a loss, by a trained model.

  marble compress --workdir runs/digits --input split:test --out digits.mrbl

The input is an npz (arr_0, uint8 [n h w c]), a folder of PNG, or split:NAME of the model's data set. How the bits are
spread over the transitions comes from at most 512 images of the training split, and is written in the file. marble
decompress, with the same checkpoint, libraries and machine, gives the same pixels back, or blurred ones from a prefix.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from marble.cli.flags import check_writable, naming, parse, require

logger = logging.getLogger(__name__)

SPLIT = "split:"
NUM_TRAIN = 512
"""Training images whose averages allocate the bits, at even distances in their split."""


def define(values: flags.FlagValues) -> None:
    """The flags of marble compress."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run.", **text)
    flags.DEFINE_string("input", None, "npz, folder of PNG, or split:NAME.", **text)
    flags.DEFINE_string("out", None, "The compressed file.", **text)
    flags.DEFINE_integer("num_steps", None, "Transitions, 4 to 16 (default: by the training images).", **text)
    flags.DEFINE_integer("seed", 0, "Seed of the noise that both sides draw.", **text)
    flags.DEFINE_integer("step", None, "Checkpoint to use (default: the newest whole one).", **text)


def main(argv: list[str]) -> int:
    """Compresses, and returns the exit status."""
    values = parse("compress", __doc__, argv, define)
    require(values, "workdir", "input", "out")
    out = Path(values.out)
    check_writable("out", str(out.parent), [out.name])
    from marble.loading import load
    from marble.parallel import log_devices
    from marble.pipelines.lossless import LosslessCompressor
    from marble.pipelines.pictures import replacing
    from marble.pipelines.rows import check_seed

    check_seed(values.seed)
    log_devices()
    pipe = load(values.workdir, step=values.step)
    pixels = read_pixels(values.input, values.workdir, pipe.image)
    with naming(f"--workdir {values.workdir}"):
        compressor = LosslessCompressor(pipe, progress=True)
    allocation = compressor.allocate(read_split(values.workdir, "train", NUM_TRAIN), num_steps=values.num_steps)
    compressed = compressor.compress(pixels, allocation, seed=values.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        file.write(compressed.data)
    logger.info(
        "wrote %s: %s images in %s bytes, %.3f bits a dimension; its ideal length is %.0f bytes",
        values.out,
        f"{len(pixels):,}",
        f"{len(compressed.data):,}",
        8 * len(compressed.data) / pixels.size,
        compressed.ideal_bits / 8,
    )
    return 0


def read_pixels(name: str, workdir: str, image: Any) -> np.ndarray:
    """Integers [n h w c] in 0..levels-1 of what --input names."""
    from marble.pipelines.image_files import read_images, unstretched

    if name.startswith(SPLIT):
        return read_split(workdir, name.removeprefix(SPLIT))
    return unstretched(read_images(Path(name), image.shape), image.levels, name)


def read_split(workdir: str, split: str, most: int | None = None) -> np.ndarray:
    """The integers [n h w c] of a split of the run's data set; at most so many images, evenly spread."""
    from marble import builders
    from marble import workdir as workdirs

    config, _ = workdirs.recall(workdir)
    examples = builders.data_config(config).open().read(split)
    count = len(examples) if most is None else min(most, len(examples))
    return np.stack([examples[int(i)]["image"] for i in np.linspace(0, len(examples) - 1, count)])
