"""Images, and the way from noise to them, as HTML that needs no files."""

import base64
import io
from collections.abc import Sequence

import numpy as np

from marble.data.images import as_picture
from marble.pipelines.progress import Progress

SHARP = 128
"""Images with shorter sides are shown pixel by pixel, and kept exactly."""
LARGEST = 256
"""Side of an image on the way from noise."""
SWITCH = """(i) => {
  document.querySelectorAll('#marble-way .frame').forEach((e) => e.classList.toggle('shown', e.dataset.i == i));
  document.querySelectorAll('#marble-way .thumb').forEach((e) => e.classList.toggle('shown', e.dataset.i == i));
}"""
"""JavaScript that shows frame i of ``way``."""
CSS = """
#marble-title h1 { margin-bottom: 0; }
#marble-title p { margin-top: 4px; color: var(--body-text-color-subdued); }
#another { align-self: end; }
#marble-live .track { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
#marble-live .done { height: 100%; background: var(--color-accent); transition: width .15s linear; }
#marble-live .said { margin: 6px 0 10px; color: var(--body-text-color-subdued); }
.marble-images { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
.marble-images img { width: 100%; border-radius: 6px; }
.sharp img, img.sharp { image-rendering: pixelated; }
#gallery, #gallery .grid-wrap { max-height: none; min-height: 0; height: auto; }
#way-slider { border: none; }
#marble-way .frame { display: none; grid-template-columns: 1fr 1fr; gap: 2px 16px; margin-top: 8px; }
#marble-way .frame.shown { display: grid; }
#marble-way .row { display: grid; grid-template-columns: repeat(auto-fit, minmax(56px, 1fr)); gap: 4px; }
#marble-way .row img { width: 100%; max-width: 256px; border-radius: 4px; }
#marble-way .said { color: var(--body-text-color-subdued); font-size: var(--text-sm); margin: 0; }
#marble-way .thumbs { display: flex; gap: 3px; }
#marble-way .thumb { flex: 1 1 0; min-width: 0; max-width: 64px; border-radius: 3px; }
#marble-way .thumb.shown { outline: 2px solid var(--color-accent); }
"""


def live(said: str, share: float, images: np.ndarray | None = None) -> str:
    """A bar that is done by that share, a line, and images [b h w c] as they are so far."""
    shown = "" if images is None else f'<div class="marble-images">{"".join(map(_img, images))}</div>'
    bar = f'<div class="track"><div class="done" style="width:{100 * share:.1f}%"></div></div>'
    return f'{bar}<p class="said">{said}</p>{shown}'


def way(steps: Sequence[Progress]) -> str:
    """The steps that were shown, of which one is seen large, and all small; the last is chosen."""
    frames, thumbs, last = [], [], len(steps) - 1
    for i, step in enumerate(steps):
        shown = " shown" if i == last else ""
        noisy, estimates = ("".join(map(_img, images)) for images in (step.x, step.x_0))
        frames.append(
            f'<div class="frame{shown}" data-i="{i}"><p class="said">after step {step.done} of {step.total}</p>'
            f'<p class="said">the estimate of the model</p><div class="row">{noisy}</div>'
            f'<div class="row">{estimates}</div></div>'
        )
        thumbs.append(_img(step.x[0], f'class="thumb{shown}{_sharp(step.x[0])}" data-i="{i}"'))
    return f'<div id="marble-way"><div class="thumbs">{"".join(thumbs)}</div>{"".join(frames)}</div>'


def joined(steps: Sequence[Progress]) -> list[Progress]:
    """The shown steps of several batches as those of one: all images after the same step."""
    batches: dict[int, list[Progress]] = {}
    for step in steps:
        batches.setdefault(step.first, []).append(step)
    total = steps[0].total // len(batches) if steps else 0

    def of_all(parts: tuple[Progress, ...]) -> Progress:
        x, x_0 = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "x_0"))
        return Progress(parts[0].done, total, 0, x, x_0)

    return [of_all(parts) for parts in zip(*batches.values(), strict=True)]


def _img(image: np.ndarray, attributes: str | None = None) -> str:
    attributes = f'class="{_sharp(image)}"' if attributes is None else attributes
    return f'<img alt="" {attributes} src="{_uri(image)}">'


def _sharp(image: np.ndarray) -> str:
    return " sharp" if max(image.shape[:2]) < SHARP else ""


def _uri(image: np.ndarray) -> str:
    picture, file = as_picture(image), io.BytesIO()
    if max(picture.size) < SHARP:
        picture.save(file, "PNG")
        kind = "png"
    else:
        picture.thumbnail((LARGEST, LARGEST))
        picture.save(file, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
