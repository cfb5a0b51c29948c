"""A small folder of captioned images: squares of a colour, each said in words."""

import json

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "white": (240, 240, 240)}
PLACES = {"left": 0, "right": 1}


def write(folder, *, num=48, size=16, splits=("train", "test"), empty=0):
    """Folders of images in the Hugging Face layout; the first captions of the train split may be empty."""
    rng = np.random.default_rng(0)
    for split in splits:
        (folder / split).mkdir(parents=True)
        lines = []
        for i in range(num if split == "train" else num // 3):
            colour, place = list(COLOURS)[i % 4], list(PLACES)[i // 4 % 2]
            image = rng.integers(0, 40, (size, size, 3)).astype(np.uint8)
            half = slice(0, size // 2) if place == "left" else slice(size // 2, size)
            image[:, half] = COLOURS[colour]
            Image.fromarray(image).save(folder / split / f"{i}.png")
            text = "" if split == "train" and i < empty else f"a {colour} square on the {place}"
            lines.append(json.dumps({"file_name": f"{i}.png", "text": text}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
