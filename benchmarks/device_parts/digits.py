"""configs/digits.py from start to end, by the commands that a user types."""

import subprocess
import sys
import time

import numpy as np


def run(tell, seconds_left, smoke, out):
    config, num = ("digits:smoke", 16) if smoke else ("digits", 800)
    workdir, images = out / "part_digits" / "run", out / "part_digits" / "images"
    began = time.monotonic()
    marble("train", "--config", config, "--workdir", workdir, timeout=seconds_left())
    trained = time.monotonic()
    tell(train_seconds=round(trained - began, 1))
    marble("sample", "--workdir", workdir, "--num", num, "--out", images, timeout=seconds_left())
    tell(sample_seconds=round(time.monotonic() - trained, 1), images=num)
    from marble.data.preprocess import to_float, to_uint8
    from marble.data.sources import open_source
    from marble.metrics import nearest_neighbour_accuracy

    examples = open_source("digits").read("train")
    real = np.stack([examples[i]["image"] for i in range(len(examples))])
    chosen = np.random.default_rng(0).permutation(len(real))[:num]
    drawn = np.load(images / "samples.npz")["arr_0"]
    accuracy = nearest_neighbour_accuracy(drawn, np.asarray(to_uint8(to_float(real[chosen], 17), 17)))
    tell(nearest_neighbour_accuracy=round(float(accuracy), 3), chance=0.5)


def marble(*words, timeout):
    subprocess.run([sys.executable, "-m", "marble.cli.main", *map(str, words)], check=True, timeout=max(5.0, timeout))
