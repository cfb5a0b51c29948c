"""What the parts of text to image can do, by the workdirs that launch/text_to_image.sh leaves.

    python -m benchmarks --suite text_to_image --workdir runs/emoji [--features effnet]
    python -m benchmarks --suite text_to_image --workdir W --train IMAGES [--variant quick]    # for a GPU

With --train the autoencoder, CLIP and the latent model are trained first, on a folder of captioned images, by a variant
of configs/emoji. Writes W/prompts.png, pictures of each of ten prompts, a row each. Prints what the logs say of held-
out images; how often CLIP picks the right one of ten prompts for a picture (0.1 by chance), and the CLIP score, over
guidance scales; and how near upsampled held-out images are to their originals, beside bicubic interpolation, by PSNR
and by the distance of features. Intervals are of 95 %, over pictures, for these prompts.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import marble
from marble import builders
from marble import run as training
from marble.builders import data_config
from marble.conditioning.low_res import area
from marble.config import load_config
from marble.data.examples import evenly
from marble.data.preprocess import to_float, to_uint8
from marble.features import Featurizer, open_features
from marble.loading import recalled
from marble.metrics import clip_score, frechet_distance_of_features, psnr
from marble.metrics.intervals import mean_estimate, share_interval
from marble.pipelines import ClipPipeline, DiffusionPipeline, UpsamplerPipeline
from marble.pipelines.pictures import save_png
from marble.pipelines.upsampler import bicubic

REPORTS, IN_CHILDREN, PEERS = False, False, ()
GUIDANCE = (1.0, 2.0, 4.0, 8.0)
A_PROMPT = 8
"""Pictures in a row."""
UPSAMPLED = 512
"""Held-out images at most."""


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--features", default="effnet")
    parser.add_argument("--num", type=int, default=20, help="pictures of a prompt")
    parser.add_argument("--train", metavar="IMAGES", help="a folder of captioned images")
    parser.add_argument("--variant", default="quick", help="of the configs that are trained")


def run(values: argparse.Namespace) -> int:
    """Measures and prints."""
    if values.train is not None:
        train(values.workdir.absolute(), values.train, values.variant)
    for part, names in {
        "autoencoder": ("psnr", "ssim"),
        "clip": ("image_to_text", "text_to_image", "retrieval_by_chance"),
    }.items():
        found = last_held_out(values.workdir / part)
        print(f"{part}, held-out images: " + ", ".join(f"{name} {found[name]:.3f}" for name in names))
    latent = str(values.workdir / "latent")
    pipe, prompts = marble.load(latent), list(recalled(latent)[0]["text"]["prompts"])
    print_guided(pipe, prompts, marble.load(str(values.workdir / "clip")), values.num)
    draw(pipe, prompts, values.workdir / "prompts.png")
    for part in ("upsampler", "regression"):
        if (values.workdir / part).is_dir():
            print_upsampled(values.workdir / part, values.features)
    return 0


def train(workdir: Path, images: str, variant: str) -> None:
    """The parts, one after the other, and how long each took."""
    device = jax.devices()[0].device_kind
    print(f"{len(jax.devices())} x {device}, jax {jax.__version__}, configs/emoji/*.py:{variant}")
    clip = (str(workdir / "clip" / "clip"),)
    read = {
        "latent": {
            "autoencoder": {"path": str(workdir / "autoencoder" / "vae"), "cache": str(workdir / "latents")},
            "text": {"encoders": clip, "tokenizers": clip},
        }
    }
    for part in ("autoencoder", "clip", "latent"):
        began = time.perf_counter()
        config = load_config(f"emoji/{part}:{variant}")
        config.data.update({"source": images, "data_dir": str(workdir / "prepared")})
        for section, words in read.get(part, {}).items():
            config[section].update(words)
        training.run(builders.complete(config), str(workdir / part))
        steps = config.training.num_steps
        print(f"{part}: {steps} steps in {time.perf_counter() - began:.0f} s, compiling included", flush=True)


def draw(pipe: DiffusionPipeline, prompts: Sequence[str], out: Path) -> None:
    """Pictures of the prompts by which the latent model was shown while it trained."""
    images = pipe.sample(A_PROMPT * len(prompts), seed=0, text=[text for text in prompts for _ in range(A_PROMPT)])
    save_png(out, images, columns=A_PROMPT)
    print(f"\n{out}, a row each: {', '.join(prompts)}")


def last_held_out(workdir: Path) -> Mapping[str, float]:
    """The last of what the log says of held-out images."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "heldout_loss" in line)
    return {name.removeprefix("heldout_"): value for name, value in last.items()}


def print_guided(pipe: DiffusionPipeline, prompts: Sequence[str], judge: ClipPipeline, num: int) -> None:
    """A row for each guidance scale."""
    texts = [prompt for prompt in prompts for _ in range(num)]
    right = np.repeat(np.arange(len(prompts)), num)
    of_texts = judge.encode_text(list(prompts))
    print(f"\n| guidance | right prompt of {len(prompts)} | CLIP score | above guidance {GUIDANCE[0]:g} |")
    print("| --- | --- | --- | --- |")
    first = None
    for scale in GUIDANCE:
        images = pipe.sample(len(texts), seed=0, text=texts, guidance_scale=scale)
        of_images = judge.encode_image(images)
        picked = ((of_images @ of_texts.T).argmax(axis=1) == right).astype(float)
        scores = clip_score(of_images, of_texts[right]).scores
        first = scores if first is None else first
        # Image i begins with the same noise at each scale, so they are compared one by one.
        score, above = mean_estimate(scores), mean_estimate(scores - first)
        line = [told(picked.mean(), share_interval(picked)), told(score.value, score.interval())]
        print(" | ".join([f"| {scale:g}", *line, told(above.value, above.interval())]) + " |")


def print_upsampled(workdir: Path, features: str) -> None:
    """PSNR and the distance of features, of the upsampler and of interpolation."""
    pipe = marble.load(str(workdir))
    config, _ = recalled(str(workdir))
    source = data_config(config).open()
    x = to_float(evenly(source.read(source.held_out), UPSAMPLED), source.levels)
    is_plain = isinstance(pipe, UpsamplerPipeline)
    small = np.asarray(area(x, x.shape[1] // (pipe if is_plain else pipe.conditioner).small.shape[0]))
    exact = {} if is_plain else {"aug_level": 0.0}  # no model has drawn these small images
    shown = lambda images: np.asarray(to_uint8(jnp.asarray(images), source.levels))  # noqa: E731
    ways = {
        "bicubic": shown(bicubic(small, x.shape[1:3])),
        workdir.name: pipe.sample(len(x), seed=0, low_res=small, **exact),
    }
    featurizer = Featurizer(open_features(features), pipe.mapping, ("features",))
    original = shown(x)
    rows = featurizer(original)["features"]
    print(f"\n| {len(x)} held-out images | PSNR | above bicubic | distance of features |\n| --- | --- | --- | --- |")
    of_bicubic = psnr(ways["bicubic"], original)
    for name, images in ways.items():
        decibels = psnr(images, original)
        found, above = mean_estimate(decibels), mean_estimate(decibels - of_bicubic)
        distance = frechet_distance_of_features(featurizer(images)["features"], rows)
        line = [name, *(told(each.value, each.interval()) for each in (found, above)), f"{distance:.2f}"]
        print(f"| {' | '.join(line)} |")


def told(value: float, interval: Sequence[float]) -> str:
    """A number and its interval."""
    return f"{value:.3g} ({interval[0]:.3g} to {interval[1]:.3g})"
