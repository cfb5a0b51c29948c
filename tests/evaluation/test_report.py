"""The report: well-formed, whole in itself, and read by a real browser."""

import base64
import html.parser
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from marble.evaluation.curves import MOST_POINTS, RIGHT, TOP, WIDTH, Curve, drawn_curve
from marble.evaluation.report import Neighbours, Report, curves_of, render, write
from marble.evaluation.stamp import Number, Stamp
from marble.metrics import Interval

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
RED, BLUE = (np.full((1, 8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
VOID = {"meta", "img", "path", "polyline", "polygon", "circle"}


def number(name, value, num=10, interval=None):
    images = {"source": "runs/<script>alert(1)</script>", "num": num, "steps": 5}
    stamp = Stamp(images, {"source": "digits:train"}, {"network": "effnet-lite0"}, {}, "marble evaluate", {"jax": "0"})
    return Number("fd", name, value, interval, stamp)


REPORT = Report(
    title="runs/<script>alert(1)</script>",
    numbers=[
        number("FD-EffNetLite0", 12.34567, interval=Interval(11.0, 13.5, 0.95)),
        number("KID & kin", math.nan),
        number("PSNR", math.inf, num=20),
    ],
    images=np.concatenate([RED] * 9),
    reference=BLUE[..., :1],
    neighbours=[Neighbours("pixels", RED, np.stack([BLUE[0], RED[0]])[None], np.array([[1.0, 2.0]]))],
    curves=[
        Curve("loss", (0, 10, 20), (1000.0, math.nan, 1.0)),
        Curve("FD", (0, 1), (2.0, 3.0), (1.0, 2.0), (3.0, 4.0)),
        Curve("nothing", (0,), (math.nan,)),
    ],
    warnings=["FD: had 3 by <another> protocol"],
    tables={"Bits": "L_T   0.0 <1"},
)


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed in their order, and keeps what is loaded and what is said."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset")]
        assert tag != "img" or dict(attrs).get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs) if tag in VOID else None

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def test_the_page_is_well_formed_loads_nothing_and_runs_nothing():
    reader = read(render(REPORT))
    assert len(reader.loaded) == 3 and all(src.startswith("data:image/png;base64,") for src in reader.loaded)
    assert "script" not in reader.tags and "@import" not in render(REPORT) and "url(" not in render(REPORT)
    text = " ".join(reader.text)
    for said in ("<script>alert(1)</script>", "KID & kin", "12.35", "11 to 13.5", "nan", "inf", "L_T   0.0 <1"):
        assert said in text


def test_numbers_of_one_protocol_share_its_table():
    page = render(REPORT)
    assert page.count("<details>") == 2 and "FD-EffNetLite0, KID &amp; kin" in page


def test_a_page_of_little_is_a_page(tmp_path):
    assert "<h2>" not in render(Report("none"))
    write(str(tmp_path / "a" / "report.html"), Report("none"))
    assert (tmp_path / "a" / "report.html").read_text() == render(Report("none"))


def decoded(page):
    """The pictures of a page, as arrays."""
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))) for src in read(page).loaded]


def test_nothing_to_show_and_names_of_any_bytes_are_no_errors():
    none = np.zeros((0, 8, 8, 3), np.uint8)
    empty = Report("a\udcffb", images=none, neighbours=[Neighbours("pixels", none, none[:, None], np.zeros((0, 1)))])
    assert not read(render(empty)).loaded and "a\\udcffb" in render(empty)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_means_of_their_pixels(channels):
    board = (np.indices((512, 512)).sum(0) % 2 * 200).astype(np.uint8)  # a chessboard of pixels, whose mean is 100
    page = render(Report("x", images=np.repeat(board[None, ..., None], channels, axis=-1)))
    (picture,) = decoded(page)
    assert picture.shape[:2] == (128, 128) and (picture == 100).all()
    assert 'class="pixels"' not in page and 'class="pixels"' in render(REPORT)


def test_neighbours_are_shown_nearest_first_with_their_distances():
    judged = np.concatenate([RED, BLUE])
    near = Neighbours("pixels", judged, judged[:, None], np.array([[0.75], [0.25]]))
    page = render(Report("x", neighbours=[near]))
    assert [tuple(picture[0, 0]) for picture in decoded(page)] == [(0, 0, 255), (255, 0, 0)]
    assert page.index("0.25") < page.index("0.75")


def points_of(svg):
    (line,) = re.findall(r'<polyline.*?points="(.*?)"', svg)
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_curves_go_through_their_points_and_pass_over_what_is_not_finite():
    svg = drawn_curve(Curve("x", (0, 1, 2), (1.0, math.nan, 3.0)))
    first, last = points_of(svg)
    assert first[0] < last[0] and first[1] > last[1]
    assert "logarithmic" not in svg
    logarithmic = drawn_curve(Curve("x", (0, 1, 2), (1.0, 10.0, 1000.0)))
    one, ten, thousand = (y for _, y in points_of(logarithmic))
    np.testing.assert_allclose((one - ten) * 2, ten - thousand, atol=0.2)
    assert "logarithmic" in logarithmic
    assert "no finite number" in drawn_curve(Curve("x", (0,), (math.inf,)))
    read(drawn_curve(Curve("level", range(5000), [7.0] * 5000)))


def test_a_long_line_keeps_its_end_and_a_single_point_is_seen():
    long = points_of(drawn_curve(Curve("x", range(5000), range(5000))))
    assert len(long) <= MOST_POINTS + 1 and long[-1] == (WIDTH - RIGHT, TOP)
    assert drawn_curve(Curve("x", (5,), (7.0,))).count("<circle") == 1
    assert "<circle" not in drawn_curve(Curve("x", range(5000), range(5000)))


def test_a_band_lies_where_its_line_is():
    svg = drawn_curve(Curve("x", (0, 1, 2), (math.nan, 1.0, 2.0), (1.0, 0.0, 1.0), (3.0, 2.0, 3.0)))
    (band,) = re.findall(r'<polygon.*?points="(.*?)"', svg)
    xs = [float(point.split(",")[0]) for point in band.split()]
    assert len(xs) == 4 and min(xs) >= points_of(svg)[0][0]


def test_curves_are_what_a_run_logged(tmp_path):
    assert curves_of(str(tmp_path)) == []
    lines = [
        {"step": 5, "loss": 2.0, "step_seconds": 1.0},
        {"step": 10, "loss": 1.0, "FD": 9.0, "grad_norm": None},
        {"step": 20, "FD": 8},
    ]
    damaged = b'\xff\xfe\n[1]\n3\n{"step": 3, "lo'
    (tmp_path / "metrics.jsonl").write_bytes("".join(f"{json.dumps(line)}\n" for line in lines).encode() + damaged)
    assert curves_of(str(tmp_path)) == [Curve("loss", (5, 10), (2.0, 1.0)), Curve("FD", (10, 20), (9.0, 8.0))]


@pytest.mark.end_to_end
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_a_browser_shows_it(tmp_path):
    page, picture = tmp_path / "report.html", tmp_path / "screen.png"
    write(str(page), REPORT)
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path}/home",
    ]
    logged = ["--enable-logging=stderr", "--v=0"]

    def browsed(*more):
        done = subprocess.run([CHROMIUM, *options, *logged, *more, page.as_uri()], capture_output=True, timeout=180)
        assert done.returncode == 0 and b"CONSOLE" not in done.stderr
        return done.stdout.decode()

    dom = browsed("--dump-dom")
    assert dom.count("<tr>") == render(REPORT).count("<tr>") and "<details>" in dom
    browsed(f"--screenshot={picture}", "--window-size=1000,2600")
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for color, least in ((RED, 40_000), (BLUE, 4_000)):
        assert (pixels == color[0, 0, 0]).all(1).sum() > least
