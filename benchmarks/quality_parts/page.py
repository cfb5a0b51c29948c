"""The page and the picture of what the suite quality has found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = {"marble": "#2a7ae2", "diffusers": "#e2872a"}


def read(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was compared, and the points."""
    first, *rows = (json.loads(line) for line in (out / "quality.jsonl").read_text().splitlines())
    return first, rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each number of images, the sides beside each other."""
    sides = list(dict.fromkeys(row["side"] for row in rows))
    head = [f"{side}, {what}" for side in sides for what in ("FD-EffNetLite0", "seconds")]
    lines = [f"| images seen | {' | '.join(head)} |", "| --- " * (1 + len(head)) + "|"]
    for images in sorted({row["images"] for row in rows}):
        cells = []
        for side in sides:
            found = [row for row in rows if row["side"] == side and row["images"] == images]
            cells += [cell for row in found for cell in (told(row), f"{row['seconds']:.0f}")] or ["", ""]
        lines.append(f"| {images:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told(row: dict[str, Any]) -> str:
    """A distance with its interval."""
    return f"{row['fd']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


def draw(path: Path, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """A PNG: the distance over the images seen, and over seconds, with intervals of 95 %."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, across, label in zip(axes, ("images", "seconds"), ("images seen", "seconds of training"), strict=True):
        for side in dict.fromkeys(row["side"] for row in rows):
            own = sorted((row for row in rows if row["side"] == side), key=lambda row: row["images"])
            x, y = [row[across] for row in own], [row["fd"] for row in own]
            colour = COLOURS.get(side)
            axis.plot(x, y, marker="o", label=side, color=colour)
            axis.fill_between(x, [row["low"] for row in own], [row["high"] for row in own], alpha=0.2, color=colour)
        axis.set_xlabel(label)
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel(f"FD-EffNetLite0, {about['num']:,} samples")
    axes[0].legend()
    figure.suptitle(about["title"])
    figure.savefig(path, dpi=110)
    plt.close(figure)
