"""What was measured as one HTML file: numbers with their protocols, images, nearest neighbours, curves of the training.

The file has all in itself: it opens from a disk, without a network, and says the same in ten years.
"""

import base64
import dataclasses
import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from marble.data.images import as_picture
from marble.evaluation.curves import Curve, drawn_curve
from marble.evaluation.stamp import Number
from marble.pipelines.pictures import grid
from marble.storage import replace_text
from marble.training.logging import TIMING_FIELDS

LOG = "metrics.jsonl"
COLUMNS = 8
"""Images side by side."""
SHOWN_WIDTH = 560
"""Pixels on the page that COLUMNS small images are enlarged to."""
LARGEST = 128
"""Pixels: larger images are made smaller, or 64 of 256 x 256 would make a page of 28 MB."""
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.stamp td:last-child, td.name { overflow-wrap: anywhere; } td.name { min-width: 8rem; } td img { min-width: 11rem; }
details { margin: .5rem 0; } summary { cursor: pointer; }
img { max-width: 100%; height: auto; background: #fff; } img.pixels { image-rendering: pixelated; }
.warning { border-left: .3rem solid #c60; padding: .2rem .8rem; background: var(--soft); overflow-wrap: anywhere; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0 0 1rem; } figcaption { font-size: .9rem; }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
"""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Some judged images, and the nearest of the reference to each."""

    space: str
    """pixels, or the network whose features are compared."""
    generated: np.ndarray
    """uint8 [n h w c]"""
    nearest: np.ndarray
    """uint8 [n k h w c], nearest first."""
    distances: np.ndarray
    """[n k]"""


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows."""

    title: str
    numbers: Sequence[Number] = ()
    images: np.ndarray | None = None
    """uint8 [n h w c]: the first of those that were judged."""
    reference: np.ndarray | None = None
    """uint8 [n h w c]: the first of those that they are judged by."""
    neighbours: Sequence[Neighbours] = ()
    curves: Sequence[Curve] = ()
    warnings: Sequence[str] = ()
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Text as it was printed, by its heading."""


def write(path: str, report: Report) -> None:
    """Writes the page, whole or not at all."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_text(target, render(report))


def render(report: Report) -> str:
    """The page."""
    title = html.escape(report.title)
    body = "\n".join(_sections(report))
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )
    return page.encode(errors="backslashreplace").decode()  # a folder's name need not be UTF-8


def curves_of(workdir: str) -> list[Curve]:
    """What a run logged but its speed, a curve a name; [] where it logged nothing. Damaged lines are passed over."""
    path = epath.Path(workdir) / LOG
    found: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
            step = float(values["step"])
        except (ValueError, TypeError, KeyError):
            continue
        for name, value in values.items():
            if name not in ("step", *TIMING_FIELDS) and isinstance(value, int | float):
                found.setdefault(name, []).append((step, float(value)))
    return [Curve(name, *map(tuple, zip(*points, strict=True))) for name, points in found.items()]


def _sections(report: Report) -> Iterator[str]:
    for line in report.warnings:
        yield f'<p class="warning">{html.escape(line)}</p>'
    if report.numbers:
        yield "<h2>Numbers</h2>"
        yield _numbers(report.numbers)
        yield "<h2>What they were measured with</h2>"
        yield from _stamps(report.numbers)
    for heading, text in report.tables.items():
        yield f'<h2>{html.escape(heading)}</h2>\n<div class="wide"><pre>{html.escape(text)}</pre></div>'
    if report.images is not None and len(report.images):
        yield '<h2>Images</h2>\n<div class="side">'
        yield _grid(report.images, "judged")
        if report.reference is not None and len(report.reference):
            yield _grid(report.reference, "of the reference")
        yield "</div>"
    for near in (near for near in report.neighbours if near.nearest.size):
        yield f"<h2>Nearest of the reference, by {html.escape(near.space)}</h2>"
        yield _neighbours(near)
    if report.curves:
        yield "<h2>Training</h2>"
        yield from (f"<figure>{drawn_curve(c)}</figure>" for c in report.curves)


def _numbers(numbers: Sequence[Number]) -> str:
    rows = []
    for number in numbers:
        interval = "" if number.interval is None else f"{shown(number.interval.low)} to {shown(number.interval.high)}"
        by = number.stamp.reference.get("source", "")
        cells = [number.name, shown(number.value), interval, number.stamp.images.get("num", ""), by]
        first, *others, last = (html.escape(str(cell)) for cell in cells)
        columns = "".join(f'<td class="number">{cell}</td>' for cell in others)
        rows.append(f'<tr><th scope="row">{first}</th>{columns}<td class="name">{last}</td></tr>')
    return _table(("metric", "value", "95 % interval", "images", "judged by"), rows)


def _stamps(numbers: Sequence[Number]) -> Iterator[str]:
    """Each protocol once, with the names of its numbers."""
    by_protocol: dict[str, list[Number]] = {}
    for number in numbers:
        by_protocol.setdefault(json.dumps(number.stamp.as_dict(), sort_keys=True, default=str), []).append(number)
    for group in by_protocol.values():
        names = html.escape(", ".join(number.name for number in group))
        rows = [
            f'<tr><th scope="row">{html.escape(part)}</th><td>{html.escape(key)}</td><td>{told}</td></tr>'
            for part, key, value in _fields(group[0])
            for told in [html.escape(str(value))]
        ]
        table = _table(("part", "field", "value"), rows, "stamp")
        yield f"<details><summary>{names}</summary>{table}</details>"


def _fields(number: Number) -> Iterator[tuple[str, str, Any]]:
    for part, values in number.stamp.as_dict().items():
        if isinstance(values, Mapping):
            yield from ((part, key, value) for key, value in values.items())
        else:
            yield part, "", values


def _table(headings: Sequence[str], lines: Sequence[str], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = "\n".join(lines)
    rows = f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table class="{kind}">{rows}</table></div>'


def _neighbours(near: Neighbours) -> str:
    """A judged image a row, with its neighbours and how far they are; first what lies nearest: copies are there."""
    rows = np.concatenate([near.generated[:, None], near.nearest], axis=1)  # [n 1+k h w c]
    lines = [
        f"<tr><td>{_image(rows[i], len(rows[i]), 'A judged image, then its nearest of the reference')}</td>"
        f"<td>{', '.join(map(shown, near.distances[i]))}</td></tr>"
        for i in np.argsort(near.distances[:, 0])
    ]
    return _table((f"judged, then its {near.nearest.shape[1]} nearest", "distances"), lines)


def _grid(images: np.ndarray, which: str) -> str:
    caption = f"The first {len(images)} {which}"
    return f"<figure>{_image(images, min(COLUMNS, len(images)), caption)}<figcaption>{caption}</figcaption></figure>"


def _image(images: np.ndarray, columns: int, told: str) -> str:
    """uint8 images [n h w c] side by side: small ones larger, pixel by pixel, and large ones smaller."""
    images = _smaller(images)
    picture = grid(images, columns)
    scale = max(1, SHOWN_WIDTH // (COLUMNS * images.shape[2]))
    kind = ' class="pixels"' if scale > 1 else ""
    source = f"data:image/png;base64,{_png(picture)}"
    return f'<img{kind} width="{picture.shape[1] * scale}" alt="{html.escape(told)}" src="{source}">'


def _smaller(images: np.ndarray) -> np.ndarray:
    """Images [n h w c] of at most LARGEST pixels a side."""
    factor = -(-max(images.shape[1:3]) // LARGEST)
    if factor == 1:
        return images
    return np.stack([np.atleast_3d(np.asarray(as_picture(image).reduce(factor))) for image in images])


def _png(picture: np.ndarray) -> str:
    file = io.BytesIO()
    as_picture(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shown(value: float) -> str:
    """Four digits of a number, whatever it is."""
    return f"{value:.4g}" if math.isfinite(value) else str(value)
