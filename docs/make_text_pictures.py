"""Makes the pictures of docs/text_to_image.md from the runs that launch/text_to_image.sh leaves.

  pip install -e '.[docs]'
  python -m benchmarks --suite text_to_image --workdir runs/emoji      # draws runs/emoji/prompts.png
  python docs/make_text_pictures.py --workdir runs/emoji

Writes text_{forward,training_step,denoise_step,latent_diffusion,samples}.png to docs/images, or to --out. What diffuses
there are latents: their first three channels are shown as red, green and blue.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

import marble
from marble.builders import data_config
from marble.data.preprocess import to_float
from marble.diffusion import q_sample
from marble.loading import recalled
from marble.pipelines import DiffusionPipeline

SHARES = (0, 0.05, 0.15, 0.3, 0.5, 0.75, 1)
"""Of the forward process, what is shown."""
STEP = 0.6
"""The noise degree of the steps that are drawn, as a share of T."""
FEW = 5
"""Steps of the walk of which one is drawn: with more, no eye would see what one does."""


def coloured(latent: np.ndarray) -> np.ndarray:
    """[h w c] as colours: the first three channels, -3 to 3 as black to full."""
    return np.clip(np.asarray(latent)[..., :3] / 6 + 0.5, 0, 1)


def noised(pipe: DiffusionPipeline, x_0: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """x_t of x_0 [b ...], and its noise."""
    noise = jax.random.normal(jax.random.key(0), x_0.shape)
    return q_sample(pipe.schedule, jnp.asarray(x_0), jnp.full(len(x_0), t), noise), noise


def panel(axis: Axes, image: np.ndarray, title: str) -> None:
    """An image with what it is called."""
    axis.imshow(image, interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])


def box(axis: Axes, text: str) -> None:
    """Something that computes, with an arrow into it and one out of it."""
    axis.axis("off")
    for start, end in ((0.0, 0.14), (0.86, 1.0)):
        how = dict(arrowstyle="->", color="#35507a", shrinkA=0, shrinkB=0)
        axis.annotate("", (end, 0.5), (start, 0.5), "axes fraction", "axes fraction", arrowprops=how)
    style = dict(boxstyle="round,pad=0.6", facecolor="#e8eef7", edgecolor="#35507a")
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, bbox=style, transform=axis.transAxes)


def sign(axis: Axes, text: str) -> None:
    """What stands between two panels."""
    axis.axis("off")
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=13, transform=axis.transAxes)


def row(widths: Sequence[float], height: float = 1.9) -> tuple[plt.Figure, Sequence[Axes]]:
    """A figure of panels beside each other."""
    options = dict(figsize=(1.35 * sum(widths), height), gridspec_kw={"width_ratios": widths}, layout="constrained")
    return plt.subplots(1, len(widths), **options)


def forward_process(pipe: DiffusionPipeline, images: np.ndarray) -> plt.Figure:
    """q(x_t | x_0) of pixels, a row an image."""
    last = pipe.schedule.num_train_timesteps - 1
    size = (1.35 * len(SHARES), 1.4 * len(images) + 0.3)
    figure, axes = plt.subplots(len(images), len(SHARES), figsize=size, layout="constrained")
    for column, share in enumerate(SHARES):
        t = round(share * last)
        level = pipe.schedule.level(jnp.array([t]))
        x_t = images if share == 0 else noised(pipe, images, t)[0]
        title = "$x_0$" if share == 0 else f"t = {t}\n{level.alpha[0]:.2f} $x_0$ + {level.sigma[0]:.2f} $\\epsilon$"
        for line, image in enumerate(x_t):
            panel(axes[line, column], np.clip(np.asarray(image) / 2 + 0.5, 0, 1), title if line == 0 else "")
    return figure


def told(pipe: DiffusionPipeline, text: str) -> dict[str, jax.Array]:
    """What the network is told of a text."""
    return pipe.conditioner.of_rows(pipe.rows(1, seed=0, request={"text": text}))


def training_step(pipe: DiffusionPipeline, image: np.ndarray, text: str) -> plt.Figure:
    """An image, a step and noise; what the network makes of them; and what the loss compares."""
    t = round(STEP * pipe.schedule.num_train_timesteps)
    x_0 = pipe.encode(image[None])
    x_t, noise = noised(pipe, x_0, t)
    eps = pipe.denoise(x_t, t, told(pipe, text)).eps
    figure, axes = row((1, 0.25, 1, 0.25, 1, 0.25, 1, 1.7, 1, 0.25, 1), 1.8)
    panel(axes[0], image / 2 + 0.5, "an image")
    sign(axes[1], "→")
    panel(axes[2], coloured(x_0[0]), "its latent $x_0$")
    sign(axes[3], "+")
    panel(axes[4], coloured(noise[0]), r"noise $\epsilon$")
    sign(axes[5], "=")
    panel(axes[6], coloured(x_t[0]), f"$x_t$, t = {t}")
    box(axes[7], f"noise predictor\n\nt = {t}\n“{text}”")
    panel(axes[8], coloured(eps[0]), r"$\epsilon_\theta(x_t, t, text)$")
    sign(axes[9], "≈")
    loss = float(jnp.square(eps - noise).mean())
    panel(axes[10], coloured(noise[0]), r"$\epsilon$")
    axes[10].set_xlabel(rf"$|\epsilon - \epsilon_\theta|^2$ = {loss:.2f}", fontsize=8)
    return figure


class Step(NamedTuple):
    """One of DDIM's: x_s = factor * x_t - share * eps."""

    t: int
    s: int
    x_t: jax.Array
    eps: jax.Array
    factor: float
    share: float
    x_s: jax.Array


def walk(pipe: DiffusionPipeline, text: str, noise: jax.Array, num_steps: int) -> list[Step]:
    """The steps from noise to a latent, by the pipeline's own guidance, in latents."""
    level = pipe.grid(num_steps)
    times, alpha, sigma = (np.asarray(value)[: num_steps + 1] for value in (level.t, level.alpha, level.sigma))
    scale, x, found = pipe.config.guidance_scale, noise, []
    contexts = [told(pipe, words) for words in (text, "")]
    for i in range(num_steps):
        of_text, of_none = (pipe.denoise(x, int(times[i]), context).eps for context in contexts)
        eps = of_none + scale * (of_text - of_none)
        factor = float(alpha[i + 1] / alpha[i])
        share = float(factor * sigma[i] - sigma[i + 1])
        x_s = factor * x - share * eps
        found.append(Step(int(times[i]), int(times[i + 1]), x, eps, factor, share, x_s))
        x = x_s
    return found


def denoise_step(pipe: DiffusionPipeline, text: str, noise: jax.Array) -> plt.Figure:
    """One step of the reverse process: predict the noise, and take some of it away."""
    steps = walk(pipe, text, noise, FEW)
    at = round((1 - STEP) * FEW)
    step = steps[at]
    figure, axes = row((1, 1.8, 1, 0.6, 1, 0.9, 1, 0.9, 1))
    panel(axes[0], coloured(step.x_t[0]), f"$x_t$, t = {step.t}")
    box(axes[1], f"noise predictor\n\nt = {step.t}\n“{text}”")
    panel(axes[2], coloured(step.eps[0]), r"its guess $\hat\epsilon$")
    sign(axes[3], "→")
    taken = f"{step.factor:.2f} $x_t$ - {step.share:.2f} $\\hat\\epsilon$\n= $x_s$, s = {step.s}"
    panel(axes[4], coloured(step.x_s[0]), taken)
    sign(axes[5], f"→ … →\n{FEW - at - 1} steps")
    panel(axes[6], coloured(steps[-1].x_s[0]), "a latent")
    box(axes[7], "decoder")
    panel(axes[8], decoded(pipe, steps[-1].x_s), "the image")
    return figure


def decoded(pipe: DiffusionPipeline, latents: jax.Array) -> np.ndarray:
    """The first one's image."""
    return np.clip(np.asarray(pipe.codec.decode(latents)[0]) / 2 + 0.5, 0, 1)


def latent_diffusion(pipe: DiffusionPipeline, text: str, noise: jax.Array) -> plt.Figure:
    """The three parts, with what goes between them."""
    context = told(pipe, text)
    latent = walk(pipe, text, noise, pipe.num_steps())[-1].x_s
    figure, axes = row((1.2, 1.3, 1.2, 0.3, 1, 1.6, 1, 1.1, 1))
    sign(axes[0], "")
    axes[0].text(0.5, 0.5, f"“{text}”", ha="center", va="center", fontsize=10, transform=axes[0].transAxes)
    box(axes[1], "text\nencoder")
    states = np.asarray(context["text"][0])
    axes[2].imshow(states[:, : 2 * len(states)], cmap="coolwarm", interpolation="nearest", vmin=-3, vmax=3)
    axes[2].set_title("a vector a token", fontsize=9)
    axes[2].set(xticks=[], yticks=[])
    sign(axes[3], "+")
    panel(axes[4], coloured(noise[0]), "noise")
    box(axes[5], f"generation model\n({pipe.num_steps()} steps)")
    panel(axes[6], coloured(latent[0]), "a latent")
    box(axes[7], "decoder")
    panel(axes[8], decoded(pipe, latent), "the image")
    return figure


def lighten(path: Path) -> None:
    """The picture in 128 colours, which no eye misses and a repository does not have to carry."""
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(128)
    few.save(path, optimize=True)


def main() -> None:
    """Makes them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--text", default="red heart", help="of the pictures of one")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    workdir = str(arguments.workdir / "latent")
    pipe, config = marble.load(workdir), recalled(workdir)[0]
    source = data_config(config).open()
    prompts = list(config["text"]["prompts"])
    examples = source.read("train")
    texts = examples.texts(len(examples))
    at = [texts.index(text) for text in dict.fromkeys([arguments.text, *prompts]) if text in texts][:3]
    images = np.asarray(to_float(np.stack([examples[i]["image"] for i in at]), source.levels))
    noise = jax.random.normal(jax.random.key(3), (1, *pipe.codec.spec.shape))
    figures = {
        "forward": forward_process(pipe, images),
        "training_step": training_step(pipe, images[0], arguments.text),
        "denoise_step": denoise_step(pipe, arguments.text, noise),
        "latent_diffusion": latent_diffusion(pipe, arguments.text, noise),
    }
    for name, figure in figures.items():
        figure.savefig(arguments.out / f"text_{name}.png", dpi=75, bbox_inches="tight")
        lighten(arguments.out / f"text_{name}.png")
    shutil.copy(arguments.workdir / "prompts.png", arguments.out / "text_samples.png")
    lighten(arguments.out / "text_samples.png")


if __name__ == "__main__":
    main()
