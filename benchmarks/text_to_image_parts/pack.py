"""Writes a folder of captioned images anew, small, for a machine that has no data set.

python -m benchmarks.text_to_image_parts.pack IMAGES FOLDER [--size 64]
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from marble.data.sources import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)  # an error where there is something
    pack(options.images, options.folder, options.size)


def pack(images: Path, folder: Path, size: int) -> int:
    """How many; each with its first text."""
    examples = open_source("image_folder", source=images, image_size=size).read("train")
    texts = examples.texts(len(examples))
    with (folder / "metadata.jsonl").open("w") as metadata:
        for i, text in enumerate(texts):
            Image.fromarray(examples[i]["image"]).save(folder / f"{i:05d}.webp", lossless=True)
            metadata.write(json.dumps({"file_name": f"{i:05d}.webp", "text": text}) + "\n")
    return len(texts)


if __name__ == "__main__":
    main()
