"""A line of numbers over the steps of a training, as SVG."""

import dataclasses
import html
import math
from collections.abc import Callable, Iterator, Sequence

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 70, 15, 30, 35
"""Margins, for the numbers at the axes and the name."""
MOST_POINTS = 1000
"""Of a line: a page of a long run stays small."""
MOST_DOTS = 50
"""A line of no more points has a dot at each: what is measured now and then, which may be once."""
DECADES = 100.0
"""A line whose largest number is so many times its least is drawn over a logarithmic axis."""


Place = Callable[[float, float], tuple[float, float]]
"""Where on the picture a point is."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """y over x; low and high, where they are known, bound it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    across: str = "step"
    """What x is."""


def drawn_curve(curve: Curve) -> str:
    """An SVG of a curve; values that are not finite are left out of it."""
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    name = html.escape(curve.name)
    if not points:
        return f"<figcaption>{name}: no finite number</figcaption>"
    points = points[:-1][:: -(-len(points) // MOST_POINTS)] + points[-1:]
    ys = [y for _, y in points]
    ys += [bound for bounds in (curve.low, curve.high) for bound in bounds or () if math.isfinite(bound)]
    is_log = min(ys) > 0 and max(ys) / min(ys) > DECADES
    across, up = _scale([x for x, _ in points], False), _scale(ys, is_log)
    place = lambda x, y: (LEFT + across(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up(y) * (HEIGHT - TOP - BOTTOM))  # noqa: E731
    placed = [place(*point) for point in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
    dots = placed if len(placed) <= MOST_DOTS else []
    told = f"{name}{', logarithmic' if is_log else ''}"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told} over {html.escape(curve.across)}">',
        f'<text x="{LEFT}" y="18" font-weight="bold">{told}</text>',
        *_axes([x for x, _ in points], ys, place, html.escape(curve.across)),
        *_band(curve, place),
        f'<polyline fill="none" stroke="#2a7ae2" stroke-width="1.5" points="{line}"/>',
        *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#2a7ae2"/>' for a, b in dots),
        "</svg>",
    ]
    return "\n".join(parts)


def _scale(values: Sequence[float], is_log: bool) -> Callable[[float], float]:
    """A function to 0..1."""
    change = math.log if is_log else float
    low, high = change(min(values)), change(max(values))
    return lambda value: (change(value) - low) / (high - low) if high > low else 0.5


def _axes(xs: Sequence[float], ys: Sequence[float], place: Place, across: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
    for y in sorted({min(ys), max(ys)}):
        yield f'<text x="{LEFT - 6}" y="{place(xs[0], y)[1] + 4:.1f}" text-anchor="end">{y:.4g}</text>'
    yield f'<text x="{LEFT}" y="{bottom + 18}">{xs[0]:g}</text>'
    yield f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{xs[-1]:g} {across}</text>'


def _band(curve: Curve, place: Place) -> Iterator[str]:
    if curve.low is None or curve.high is None:
        return
    rows = zip(curve.x, curve.low, curve.high, curve.y, strict=True)
    there = [(x, low, high) for x, low, high, y in rows if all(map(math.isfinite, (x, low, high, y)))]
    edge = [place(x, high) for x, _, high in there] + [place(x, low) for x, low, _ in reversed(there)]
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
    yield f'<polygon fill="#2a7ae2" fill-opacity=".2" points="{joined}"/>'
