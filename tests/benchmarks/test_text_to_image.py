"""The suite text_to_image and what it packs: at tiny sizes the whole of it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from captioned import write
from PIL import Image
from processes import ROOT

from benchmarks.text_to_image_parts import pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Of captioned images of 16x16, those of 8x8."""
    folder = tmp_path_factory.mktemp("images")
    write(folder / "whole", splits=("train",), num=24)
    (folder / "small").mkdir()
    return folder, pack.pack(folder / "whole", folder / "small", 8)


def test_what_is_packed_are_the_images_with_their_texts(packed):
    folder, num = packed
    lines = [json.loads(line) for line in (folder / "small" / "metadata.jsonl").read_text().splitlines()]
    assert num == len(lines) == 24
    for line in lines:
        image = np.asarray(Image.open(folder / "small" / line["file_name"])).astype(int)
        assert image.shape == (8, 8, 3)
        colour, place = line["text"].split()[1], line["text"].split()[-1]
        left = slice(0, 4) if place == "left" else slice(4, 8)
        found = image[:, left].mean(axis=(0, 1))
        assert (found.argmax() == ["red", "green", "blue"].index(colour)) if colour != "white" else found.min() > 200


@pytest.mark.slow
def test_all_parts_are_trained_and_measured(tmp_path):
    """With the variant of two steps: each figure is printed, and the pictures of the prompts are there."""
    write(tmp_path / "images", splits=("train",), num=40)
    words = ["--workdir", tmp_path / "run", "--train", tmp_path / "images", "--variant", "smoke", "--num", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--suite", "text_to_image", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for part in ("autoencoder", "clip", "latent"):
        assert f"{part}: 2 steps in " in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "2", "4", "8"]
    assert Image.open(tmp_path / "run" / "prompts.png").size[0] >= 8 * 16
