"""How short a trained model makes the held-out images of its data set, beside PNG, lzma and the model's own bound.

    python benchmarks/lossless.py --workdir runs/digits [--num_steps K] [--seed N]

Prints a table of bits an image, then what every prefix of the file is worth: the distortion (root mean square, in the
data's levels) of the images that decode from it. Checks on the way that the file decodes to the same pixels.
"""

import argparse
import io
import lzma
import time

import numpy as np

from marble.cli.compress import NUM_TRAIN, read_split
from marble.compression import format
from marble.data.images import as_picture
from marble.loading import load
from marble.pipelines.image_files import stretched
from marble.pipelines.lossless import LosslessCompressor
from marble.pipelines.pictures import grid


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--num_steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pixels = read_split(arguments.workdir, "test").astype(np.int64)
    began = time.perf_counter()
    compressor = LosslessCompressor(load(arguments.workdir), progress=True)
    training = read_split(arguments.workdir, "train", NUM_TRAIN)
    allocation = compressor.allocate(training, num_steps=arguments.num_steps)
    allocated = time.perf_counter()
    compressed = compressor.compress(pixels, allocation, seed=arguments.seed)
    written = time.perf_counter()
    images, exact = compressor.decompress(compressed.data)
    assert exact and (images == pixels).all()
    seconds = f"{allocated - began:.0f} s to start and allocate, {written - allocated:.0f} s to compress"
    print(f"{len(pixels)} images of {pixels[0].size} pixels; {seconds}, {time.perf_counter() - written:.0f} s back")
    print(f"chain {allocation.timesteps}, bits {allocation.bits} in chunks {allocation.chunks}\n")
    print_table(pixels, compressor, compressed, allocation)
    print_prefixes(pixels, compressor, compressed.data)


def print_table(pixels, compressor, compressed, allocation) -> None:
    """Bits an image by everyone's measure."""
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
    print("| | bytes | bits an image | bits a dimension | the file's share |\n|---|---|---|---|---|")
    for name, bits in rows.items():
        per_image = bits / len(pixels)
        print(f"| {name} | {bits / 8:,.0f} | {per_image:.1f} | {bits / pixels.size:.3f} | {size / bits:.3f} |")


def print_prefixes(pixels, compressor, data: bytes) -> None:
    """The distortion of what each complete section gives."""
    header, sections = format.read(data)
    end = format.header_size(data)
    print("\n| sections | bytes | share | distortion, levels |\n|---|---|---|---|")
    for count in range(len(sections) + 1):
        images, exact = compressor.decompress(data[:end], prefix=True)
        found = images if exact else np.clip((images + 1) * (header.levels - 1) / 2, 0, header.levels - 1)
        print(f"| {count} | {end:,} | {end / len(data):.2f} | {np.sqrt(((found - pixels) ** 2).mean()):.2f} |")
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
    file = io.BytesIO()
    as_picture(image).save(file, format="PNG", optimize=True)
    return 8 * len(file.getvalue())


if __name__ == "__main__":
    main()
