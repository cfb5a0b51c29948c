"""The page in a real browser: a prompt drawn while one watches, the slider, uploads, a mask painted by hand."""

import io
import re
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra [demo]")
pytest.importorskip("playwright", reason="the browser is driven by playwright, of the extra [test]")

from from_outside import PIXELS, encoded
from playwright.sync_api import sync_playwright

from marble.data.images import resize
from marble.demo import requests
from marble.demo.server import serving
from marble.pipelines.progress import Progress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.end_to_end, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]
PATIENCE = 120_000
"""Milliseconds: a program may have to be compiled first."""


@pytest.fixture(scope="module")
def url(text_model, free_port):
    with serving(text_model, host="127.0.0.1", port=free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Tab:
    """The page in a tab, which keeps what was said while something was drawn, and which hosts were asked."""

    def __init__(self, browser, url, **options):
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(PATIENCE)
        self.asked, self.errors = set(), []
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(error))
        self.page.goto(url)
        self.page.wait_for_selector("#draw")
        self.page.wait_for_selector("#marble-live .said")

    def press(self, button):
        """Presses it; the last line, when the drawing has ended, and all before."""
        self.page.evaluate("""() => {
          window.said = [];
          const live = document.querySelector('#marble-live');
          live.querySelector('.said').textContent = '';
          window.watch = new MutationObserver(() => window.said.push(live.innerHTML));
          window.watch.observe(live, {subtree: true, childList: true, characterData: true});
        }""")
        self.page.click(button)
        self.page.wait_for_function("() => window.said.some((said) => /images? in [0-9.]+ s/.test(said))")
        return self.page.evaluate("() => window.said")

    def images(self):
        """The pixels of the images that were drawn."""
        self.page.wait_for_selector("#gallery img")
        urls = self.page.eval_on_selector_all("#gallery .grid-container img", "(all) => all.map((e) => e.src)")
        return [np.asarray(Image.open(io.BytesIO(self.page.request.get(url).body())).convert("L")) for url in urls]

    def open(self, name, elem_id, content=None):
        self.page.get_by_role("tab", name=name).click()
        file = {"name": "it.png", "mimeType": "image/png", "buffer": encoded("PNG") if content is None else content}
        self.page.set_input_files(f"#{elem_id} input[type=file]", files=[file])
        self.page.wait_for_selector(f"#{elem_id} img")

    def set(self, selector, value):
        self.page.eval_on_selector(
            selector, "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
        )


@pytest.fixture
def tab(browser, url):
    tab = Tab(browser, url, viewport={"width": 1280, "height": 1000})
    yield tab
    assert tab.errors == []
    assert {re.match(r"data:|blob:|http://127\.0\.0\.1:", asked) is not None for asked in tab.asked} == {True}
    tab.page.close()


def test_a_prompt_is_drawn_while_one_watches_and_the_way_is_seen_again(tab):
    tab.page.fill("#prompt textarea", "a bright day")
    said = tab.press("#draw")
    assert any("step 20 of 20" in line and "<img" in line for line in said)
    (bright,) = tab.images()
    tab.page.fill("#prompt textarea", "a dark night")
    tab.press("#draw")
    (dark,) = tab.images()
    assert dark.shape == (8, 8) and bright.mean() - dark.mean() > 100
    shown = "#marble-way .frame.shown .said >> nth=0"
    assert tab.page.inner_text(shown) == "after step 20 of 20"
    tab.set("#way-slider input[type=range]", 0)
    tab.page.wait_for_function("() => document.querySelector('#marble-way .frame.shown').dataset.i == '0'")
    assert tab.page.inner_text(shown) == "after step 2 of 20"
    assert tab.page.eval_on_selector("#marble-way .frame.shown img", "(e) => e.naturalWidth") == 8


@pytest.mark.slow  # by requests in test_requests.py and test_server.py
def test_an_image_is_varied_noised_and_a_hole_in_it_painted_and_filled(tab):
    tab.open("From an image", "vary-image")
    tab.press("#vary")
    assert tab.images()[0].shape == (8, 8)
    tab.open("To noise", "noise-image")
    tab.page.wait_for_selector("#marble-live >> text=t = 6 of 19")
    assert len(tab.images()) == 3
    tab.open("Fill a hole", "fill-image")
    tab.page.wait_for_selector("#fill-editor canvas")
    tab.page.wait_for_timeout(2000)  # the editor fits the image into itself
    tab.page.click("#fill-editor button[aria-label=Brush]")
    tab.page.locator("#fill-editor canvas").first.scroll_into_view_if_needed()
    box = tab.page.locator("#fill-editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(x - 60, y)
    tab.page.mouse.down()
    for step in range(13):
        tab.page.mouse.move(x - 60 + 10 * step, y)
    tab.page.mouse.up()
    tab.page.wait_for_timeout(1000)  # and sends what was painted
    tab.press("#fill")
    (filled,) = tab.images()
    given = resize(np.asarray(Image.fromarray(PIXELS).convert("L"))[..., None], 8)[..., 0]
    changed = filled != given
    assert changed[3:5, 3:5].any() and not changed[:2].any() and not changed[6:].any()


def test_a_refusal_is_told(tab):
    tab.open("From an image", "vary-image", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    tab.page.click("#vary")
    tab.page.wait_for_selector("text=the upload is an SVG drawing: give a PNG, JPEG or WebP image")


@pytest.mark.parametrize("is_closed", [False, True], ids=["stop", "the tab is closed"])
def test_a_drawing_that_nobody_waits_for_ends_at_its_next_step(tab, monkeypatch, is_closed):
    made = []

    def endless(model, asked, sampler, on_step):
        while True:
            time.sleep(0.02)
            made.append(1)
            on_step.call(Progress(len(made), 10**6))

    monkeypatch.setattr(requests, "draw", endless)
    tab.page.click("#draw")
    tab.page.wait_for_selector("#stop")
    if is_closed:
        tab.page.close()
    else:
        tab.page.click("#stop")
        tab.page.wait_for_function("() => document.querySelector('#marble-live').textContent.includes('stopped')")
    began = time.monotonic()
    while any(thread.name == "marble demo" for thread in threading.enumerate()):
        assert time.monotonic() - began < 20
        time.sleep(0.05)
    steps = len(made)
    time.sleep(0.2)
    assert len(made) == steps


def test_a_telephone_has_it_all_in_its_width(browser, url):
    tab = Tab(browser, url, viewport={"width": 400, "height": 800})
    tab.press("#draw")
    assert tab.page.evaluate("() => document.documentElement.scrollWidth") <= 400
    tab.page.close()
