"""Writes training images of cifar10 into a folder, evenly spaced and without loss, for a machine that has no data set.

python -m benchmarks.quality_parts.pack FOLDER [--num 5000] [--data_dir D]
"""

import argparse
from pathlib import Path

from PIL import Image

from marble.data.sources import open_source
from marble.evaluation import of_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--data_dir")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)  # an error where there is something
    chosen = of_source(open_source("cifar10", data_dir=options.data_dir), "train").take(options.num)
    images = (image for batch in chosen.batches(256) for image in batch)
    for i, image in enumerate(images):
        Image.fromarray(image).save(options.folder / f"{i:05d}.webp", lossless=True)


if __name__ == "__main__":
    main()
