"""Makes the pictures of these pages from a trained run of configs/digits.py.

  pip install -e '.[docs]'
  marble evaluate --workdir runs/digits
  python docs/make_pictures.py --workdir runs/digits

Writes digits_{progressive,edit,interpolate,inpaint,compressed,rate_distortion}.png to docs/images, or to --out.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import marble
from marble.data.preprocess import to_uint8
from marble.data.sources import open_source
from marble.pipelines import DiffusionPipeline
from marble.pipelines.editing import edit, inpaint, interpolate
from marble.pipelines.image_files import stretched
from marble.pipelines.lossless import LosslessCompressor
from marble.pipelines.pictures import save_png

NUM = 8
"""Images a row."""
STRENGTHS = (0.2, 0.4, 0.6, 0.8)
SHARES = (0.05, 0.15, 0.25, 0.35, 0.7)
"""Of the compressed file."""


def progressive(pipe: DiffusionPipeline, steps: int) -> np.ndarray:
    """What the network sees in x_t at ten moments on the way from noise, a row each; the last are the images."""
    _, frames = pipe.sample(NUM, seed=0, steps=steps, num_frames=min(10, steps))
    return frames.x_0.reshape(-1, *pipe.image.shape)


def edited(pipe: DiffusionPipeline, images: np.ndarray, steps: int) -> np.ndarray:
    """The images, and edits of rising strength, a row each."""
    return np.concatenate([images, *(edit(pipe, images, strength, steps=steps) for strength in STRENGTHS)])


def interpolated(pipe: DiffusionPipeline, images: np.ndarray, steps: int) -> np.ndarray:
    """From one image to the next in eight steps, three times, a row each."""
    pairs = [(images[i], images[i + 1]) for i in (0, 2, 4)]
    return np.concatenate([interpolate(pipe, a, b, num=NUM, strength=0.25, steps=steps) for a, b in pairs])


def inpainted(pipe: DiffusionPipeline, images: np.ndarray, steps: int) -> np.ndarray:
    """The images, the same without their lower halves, and three drawings of those, a row each."""
    height, width = images.shape[1:3]
    mask = (np.arange(height)[:, None] * np.ones(width)) >= height / 2
    holes = np.where(mask[..., None], np.uint8(127), images)
    drawn = [inpaint(pipe, images, mask, seed=seed, steps=steps, resamples=5) for seed in range(3)]
    return np.concatenate([images, holes, *drawn])


def compressed(pipe: DiffusionPipeline, pixels: np.ndarray, training: np.ndarray) -> np.ndarray:
    """What rising shares of the compressed file of these images decode to, a row each of the first, and the images."""
    compressor = LosslessCompressor(pipe)
    data = compressor.compress(pixels, compressor.allocate(training)).data
    rows = [compressor.decompress(data[: round(share * len(data))], prefix=True)[0] for share in SHARES]
    rows = [np.asarray(to_uint8(row[:NUM], pipe.image.levels)) for row in rows]
    return np.concatenate([*rows, stretched(compressor.decompress(data)[0][:NUM], pipe.image.levels)])


def plot_rate_distortion(workdir: Path, out: Path) -> None:
    """Distortion by rate, and both by the reverse time (Ho et al. 2020, figure 5)."""
    curve = json.loads((workdir / "metrics.json").read_text())["bpd"]["test"]["rate_distortion"]
    rate, distortion = curve["rate"], curve["rmse_of_255"]
    reverse_time = np.arange(len(rate), 0, -1) / len(rate)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    titles = ("reverse time, (T - t) / T", "reverse time, (T - t) / T", "rate, bits/dim")
    columns = ((reverse_time, distortion), (reverse_time, rate), (rate, distortion))
    for axis, title, (x, y) in zip(axes, titles, columns, strict=True):
        axis.plot(x, y, color="black")
        axis.set(xlabel=title, ylabel="rate, bits/dim" if y is rate else "distortion, RMSE of 255")
    figure.savefig(out, dpi=100)


def main() -> None:
    """Makes them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--steps", type=int, default=100, help="sampling steps (default: 100)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipe, source = marble.load(str(arguments.workdir)), open_source("digits")
    training, pixels = (
        np.stack([examples[i]["image"] for i in range(len(examples))])
        for examples in map(source.read, ("train", "test"))
    )
    images = stretched(pixels[:NUM], source.levels)
    pictures = {
        "progressive": progressive(pipe, arguments.steps),
        "edit": edited(pipe, images, arguments.steps),
        "interpolate": interpolated(pipe, images, arguments.steps),
        "inpaint": inpainted(pipe, images, arguments.steps),
        "compressed": compressed(pipe, pixels, training[:512]),
    }
    for name, rows in pictures.items():
        save_png(arguments.out / f"digits_{name}.png", rows, columns=NUM)
    plot_rate_distortion(arguments.workdir, arguments.out / "digits_rate_distortion.png")


if __name__ == "__main__":
    main()
