"""How short a trained model makes the held-out images of its data set, beside PNG, lzma and the model's own bound.

    python -m benchmarks --suite lossless --workdir runs/digits [--num_steps K] [--seed N]

Prints a table of bits an image, then what every prefix of the file is worth: the distortion (root mean square, in the
data's levels) of the images that decode from it. Checks on the way that the file decodes to the same pixels.
"""

import argparse
import io
import lzma
import time
from typing import Any

import numpy as np

from benchmarks.report import Report

REPORTS, IN_CHILDREN, PEERS = True, False, ()
FEW = 8
"""Images with --smoke."""


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--num_steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help=f"{FEW} images by 4 steps")


def run(options: argparse.Namespace, report: Report) -> int:
    """Both tables."""
    from marble.cli.compress import NUM_TRAIN, read_split
    from marble.loading import load
    from marble.pipelines.lossless import LosslessCompressor

    few, num_steps = (FEW, 4) if options.smoke else (None, options.num_steps)
    pixels = read_split(options.workdir, "test").astype(np.int64)[:few]
    began = time.perf_counter()
    compressor = LosslessCompressor(load(options.workdir), progress=True)
    training = read_split(options.workdir, "train", few or NUM_TRAIN)
    allocation = compressor.allocate(training, num_steps=num_steps)
    allocated = time.perf_counter()
    compressed = compressor.compress(pixels, allocation, seed=options.seed)
    written = time.perf_counter()
    images, exact = compressor.decompress(compressed.data)
    back = time.perf_counter()
    assert exact and (images == pixels).all()
    report.row(
        "The compressor",
        images=len(pixels),
        pixels=pixels[0].size,
        seconds_to_start_and_allocate=allocated - began,
        seconds_to_compress=written - allocated,
        seconds_back=back - written,
    )
    report.note(f"chain {allocation.timesteps}, bits {allocation.bits} in chunks {allocation.chunks}")
    tell_lengths(report, pixels, compressor, compressed, allocation)
    tell_prefixes(report, pixels, compressor, compressed.data)
    return 0


def tell_lengths(report: Report, pixels: np.ndarray, compressor: Any, compressed: Any, allocation: Any) -> None:
    """Bits an image by everyone's measure."""
    from marble.pipelines.image_files import stretched
    from marble.pipelines.pictures import grid

    levels = compressor.image.levels
    size = 8 * len(compressed.data)
    rows = {
        "the file": size,
        "its ideal length": compressed.ideal_bits,
        "the chain's ELBO": compressor.bound_bits(pixels, allocation),
        "entropy of each position, of these images": position_bits(pixels, levels),
        "lzma of all pixels": lzma_bits(pixels),
        "PNG of all images in one": png_bits(grid(stretched(pixels, levels))),
        "PNG of each image": sum(png_bits(image) for image in stretched(pixels, levels)),
    }
    for name, counted in rows.items():
        bits = float(counted)
        report.row(
            "Lengths",
            what=name,
            bytes=round(bits / 8),
            bits_an_image=bits / len(pixels),
            bits_a_dimension=bits / pixels.size,
            share_of_the_file=size / bits,
        )


def tell_prefixes(report: Report, pixels: np.ndarray, compressor: Any, data: bytes) -> None:
    """The distortion of what each complete section gives."""
    from marble.compression import format

    header, sections = format.read(data)
    end = format.header_size(data)
    for count in range(len(sections) + 1):
        images, exact = compressor.decompress(data[:end], prefix=True)
        found = images if exact else np.clip((images + 1) * (header.levels - 1) / 2, 0, header.levels - 1)
        distortion = float(np.sqrt(((found - pixels) ** 2).mean()))
        report.row("Prefixes", sections=count, bytes=end, share=end / len(data), distortion_in_levels=distortion)
        end += len(sections[count]) + 2 if count < len(sections) else 0


def position_bits(pixels: np.ndarray, levels: int) -> float:
    """The empirical entropy of each position by itself, of all images together."""
    counts = np.stack([(pixels == level).sum(axis=0) for level in range(levels)])
    shares = counts / len(pixels)
    return float(-(counts * np.log2(np.where(counts, shares, 1))).sum())


def lzma_bits(pixels: np.ndarray) -> int:
    """The least that lzma makes of all pixels, image by image or position by position, with any of its literal bits."""
    orders = [order.astype(np.uint8).tobytes() for order in (pixels, np.moveaxis(pixels, 0, -1))]
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9, "lc": lc, "lp": 0, "pb": pb} for lc in (0, 3) for pb in (0, 2, 3)]
    return 8 * min(len(lzma.compress(o, format=lzma.FORMAT_ALONE, filters=[f])) for o in orders for f in filters)


def png_bits(image: np.ndarray) -> int:
    """The size of an image [h w c] as PNG."""
    from marble.data.images import as_picture

    file = io.BytesIO()
    as_picture(image).save(file, format="PNG", optimize=True)
    return 8 * len(file.getvalue())
